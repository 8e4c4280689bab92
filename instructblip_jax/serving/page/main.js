// The page's entry point: loads the server's description of its model, and then handles user input.

import { about, setAbout, writes } from "./about.js"
import { json, onToken, send } from "./api.js"
import { answer, compare, copyCurl, rank } from "./answers.js"
import { complete, isRunning, run, stop, texts } from "./asking.js"
import { $, copy, el } from "./dom.js"
import { lookSoon, toggleLook } from "./look.js"
import * as media from "./media.js"
import { complain, hideNotice, notice } from "./notices.js"

const LOOK_DELAY = 600 // milliseconds after the last key

onToken((wrong) => {
  const dialog = $("token")
  $("token-value").value = ""
  $("token-help").textContent = wrong
    ? "The server did not accept it. Check the token and try again."
    : "Whoever started it has the token. It stays in this page's memory."
  dialog.returnValue = ""
  dialog.showModal()
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue === "use" ? $("token-value").value : "")
    dialog.addEventListener("close", closed, { once: true })
  })
})

async function start() {
  try {
    setAbout(await json("/demo/about"))
  } catch (error) {
    return complain(error, start)
  }
  document.title = `${about.title} · instructblip_jax`
  $("title").textContent = about.title
  $("model").textContent = about.model
  $("model").hidden = false
  if (!writes()) about.media.image.most = about.limits.pictures // each text is compared with all of them
  media.setUp(about, () => lookSoon(0), notice)
  if (writes()) setUpWriting()
  else setUpComparing()
  $("rank-card").hidden = !about.does.includes("rank")
  $("look-card").hidden = !about.does.includes("look")
  hideNotice()
  document.body.dataset.ready = "yes"
}

function setUpWriting() {
  $("max_tokens").max = about.limits.max_tokens
  $("max_tokens").value = Math.min(64, about.limits.max_tokens)
  suggest("Choose an instruction …", (text) => ($("instruction").value = text))
}

function setUpComparing() {
  $("ask-heading").textContent = "Compare"
  $("submit").textContent = "Compare"
  $("instruction-label").textContent = "Texts, one per line"
  $("instruction").rows = 4
  $("instruction").placeholder = "a dog on a bench\na cat on a sofa"
  $("options").hidden = true
  $("compare-card").hidden = false
  $("answer-card").hidden = true
  $("verb").textContent = "compares"
  suggest("Add a text …", (text) => ($("instruction").value = [...texts(), text].join("\n")))
}

function suggest(title, choose) {
  const select = $("suggestions")
  const groups = Map.groupBy(about.instructions, ({ task }) => task ?? "")
  const options = (list) => list.map(({ text }) => el("option", { value: text }, text))
  const many = [...groups.values()].some((list) => list.length > 1)
  select.replaceChildren(el("option", { value: "" }, title))
  for (const [task, list] of groups) {
    const label = task.replaceAll("_", " ")
    select.append(...(many && task ? [el("optgroup", { label }, ...options(list))] : options(list)))
  }
  select.hidden = !about.instructions.length
  select.addEventListener("change", () => {
    if (!select.value) return
    choose(select.value)
    select.value = ""
    $("instruction").dispatchEvent(new Event("input"))
  })
}

function ask() {
  if (isRunning() || !about || !complete()) return
  if (writes()) run(answer, ask)
  else run(compare, ask)
}

$("ask").noValidate = true // the fields may be folded away, where a browser cannot point at them
$("ask").addEventListener("submit", (event) => {
  event.preventDefault()
  ask()
})
$("rank").addEventListener("submit", (event) => {
  event.preventDefault()
  if (about && complete()) run(rank, () => $("rank").requestSubmit())
})
$("stop").addEventListener("click", stop)
$("look").addEventListener("click", toggleLook)
$("instruction").addEventListener("input", () => lookSoon(LOOK_DELAY))
$("copy").addEventListener("click", () => copy($("answer").textContent, $("copy")))
$("curl").addEventListener("click", copyCurl)
$("example").addEventListener("click", async () => {
  try {
    const blob = await (await send("/demo/example.png")).blob()
    await media.add([new File([blob], "example.png", { type: "image/png" })], false)
  } catch (error) {
    complain(error, () => $("example").click())
  }
})
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault()
    ask()
  }
  if (event.key === "Escape") stop()
})
if (/Mac|iPhone|iPad/.test(navigator.platform)) $("keys").querySelector("kbd").textContent = "⌘"

start()
