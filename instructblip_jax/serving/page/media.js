// The files of a request: dropped, pasted, chosen or photographed; shown as thumbnails; sent as parts of a message.

import { $, el, say } from "./dom.js"

const WORDS = { image: "picture", video: "video", audio: "sound", pc: "point cloud" }

let accepted = {} // kind -> { most, accept }
let most = { bytes: Infinity, pictures: Infinity }
let chosen = [] // { kind, name, url: data URI, view: blob URI, onDisk }
let changed = () => {}
let refused = () => {}

/** `about`: the server's description of its model. `onChange` follows each change, `onRefuse(text)` a refusal. */
export function setUp(about, onChange, onRefuse) {
  accepted = about.media
  most = about.limits
  changed = onChange
  refused = onRefuse
  const rules = Object.entries(accepted)
  const kinds = rules.map(([kind, { most }]) => (most > 1 ? `${WORDS[kind]}s` : `a ${WORDS[kind]}`))
  $("drop-label").textContent = `Drop or paste ${list(kinds, "or")}`
  $("files").accept = rules.map(([, { accept }]) => accept).join(",")
  $("files").multiple = rules.length > 1 || rules.some(([, { most }]) => most > 1)
  $("pick").textContent = $("files").multiple ? "Choose files" : "Choose a file"
  $("shoot").hidden = !accepted.image
  $("example").hidden = !about.example
  listen()
}

export const files = () => chosen

export function replace(others) {
  chosen = [...others]
  show()
}

/** The files as parts of a user's message. */
export function parts(given = chosen) {
  return given.map(({ kind, name, url }) => {
    if (kind !== "audio") return { type: `${kind}_url`, [`${kind}_url`]: { url } }
    const data = url.slice(url.indexOf(",") + 1)
    return { type: "input_audio", input_audio: { data, format: extension(name) || "wav" } }
  })
}

export async function add(list, onDisk = true) {
  const rejected = []
  for (const file of list) {
    const kind = kindOf(file)
    const held = chosen.filter((one) => one.kind === kind)
    if (!kind) rejected.push(`${file.name || "This"} is not a file that this model takes. It takes ${takes()}.`)
    else if (size(file.size) > most.bytes) {
      const taken = `the server takes ${megabytes(most.bytes * 0.75)} MB`
      rejected.push(`${file.name} is too large: ${megabytes(file.size)} MB, and ${taken}.`)
    } else if (accepted[kind].most > 1 && held.length >= limit(kind)) {
      rejected.push(`${file.name} was left out: one question takes at most ${limit(kind)} ${WORDS[kind]}s.`)
    } else {
      const [url, view] = [await dataUrl(file), URL.createObjectURL(file)]
      const one = { kind, name: file.name || `pasted.${kind}`, url, view, onDisk }
      if (accepted[kind].most === 1) chosen = chosen.filter((other) => other.kind !== kind)
      chosen.push(one)
      say(`${one.name} added`)
    }
  }
  show()
  if (rejected.length) refused(rejected.join(" "))
}

function limit(kind) {
  return kind === "image" ? Math.min(accepted.image.most, most.pictures) : accepted[kind].most
}

function kindOf(file) {
  const plain = (type) => type.replace("/x-", "/") // browsers differ: audio/wav, audio/x-wav
  const named = (rule) => rule.startsWith(".") && file.name.toLowerCase().endsWith(rule)
  const fits = (rule) => named(rule) || plain(file.type) === plain(rule)
  return Object.keys(accepted).find((kind) => accepted[kind].accept.split(",").some((rule) => fits(rule.trim())))
}

function takes() {
  const endings = (kind) => kind.accept.split(",").map((rule) => rule.trim().replace(/^.*[/.]/, "").toUpperCase())
  return list(Object.entries(accepted).map(([kind, rule]) => `${WORDS[kind]}s (${list(endings(rule), "or")})`), "and")
}

function list(words, last) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`
}

const extension = (name) => name.split(".").slice(1).pop()?.toLowerCase()
const size = (bytes) => Math.ceil(bytes / 3) * 4 // as base64
const megabytes = (bytes) => (bytes / 1e6).toFixed(1)

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader()
    reader.onload = () => resolve(reader.result)
    reader.onerror = () => reject(reader.error)
    reader.readAsDataURL(file)
  })
}

function show() {
  const list = $("media")
  list.replaceChildren(...chosen.map(item))
  list.hidden = !chosen.length
  list.classList.toggle("single", chosen.length === 1)
  $("drop").classList.toggle("filled", chosen.length > 0)
  changed()
}

function item(one) {
  const remove = el("button", { type: "button", className: "remove", title: "Remove" }, "×")
  remove.setAttribute("aria-label", `Remove ${one.name}`)
  remove.addEventListener("click", () => {
    const place = chosen.indexOf(one)
    chosen = chosen.filter((other) => other !== one)
    show()
    say(`${one.name} removed`)
    const next = $("media").querySelectorAll(".remove")[Math.min(place, chosen.length - 1)]
    ;(next ?? $("pick")).focus()
  })
  return el("li", { className: one.kind }, preview(one), remove)
}

/** The preview of a file: the picture itself, a player, or its name. */
export function preview(one, controls = true) {
  if (one.kind === "image") return el("img", { src: one.view, alt: one.name })
  if (controls && one.kind !== "pc") {
    const player = el(one.kind, { src: one.view, controls: true, preload: "metadata" })
    player.setAttribute("aria-label", one.name)
    return player
  }
  return el("span", { className: "tile" }, el("strong", {}, WORDS[one.kind]), one.name)
}

let listening = false

function listen() {
  if (listening) return
  listening = true
  const zone = $("drop")
  $("pick").addEventListener("click", () => $("files").click())
  $("shoot").addEventListener("click", () => $("camera").click())
  for (const input of [$("files"), $("camera")]) {
    input.addEventListener("change", async () => {
      await add([...input.files])
      input.value = "" // the same file can be chosen again
    })
  }
  // A file may be dropped anywhere: otherwise the browser would leave the page and open it.
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return
    event.preventDefault()
    zone.classList.add("over")
  })
  document.addEventListener("dragleave", (event) => event.relatedTarget || zone.classList.remove("over"))
  document.addEventListener("drop", (event) => {
    zone.classList.remove("over")
    if (!event.dataTransfer.files.length) return
    event.preventDefault()
    add([...event.dataTransfer.files])
  })
  document.addEventListener("paste", (event) => {
    const data = event.clipboardData
    // Programs that copy cells or pages add a picture of them to the text; in a text field, the text is wanted.
    if (!data.files.length || (data.types.includes("text/plain") && event.target.matches?.("textarea, input"))) return
    event.preventDefault()
    add([...data.files], false)
  })
}
