// The page: what is asked, with which options, and where the answers go.

import { events, hasToken, json, onToken, Problem, send } from "./api.js"
import { bars, percent } from "./bars.js"
import { curlCommand } from "./curl.js"
import { $, copy, el, say } from "./dom.js"
import { remember } from "./history.js"
import { readers, showLook } from "./look.js"
import * as media from "./media.js"

const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"]
const LOOK_DELAY = 600 // milliseconds after the last key

let about
let running = null // the AbortController of what is being answered
let looking = null // and that of the newest look
let lookTimer
let last = null // what the answer on the page was asked with: { body, files }

// -- The start -------------------------------------------------------------------------------------------------------

onToken((wrong) => {
  const dialog = $("token")
  $("token-value").value = ""
  $("token-help").textContent = wrong
    ? "The server did not accept it. Check the token and try again."
    : "Whoever started it has the token. It stays in this page's memory."
  dialog.returnValue = ""
  dialog.showModal()
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? $("token-value").value : ""), { once: true })
  })
})

async function start() {
  try {
    about = await json("/demo/about")
  } catch (error) {
    return complain(error, start)
  }
  document.title = `${about.title} · instructblip_jax`
  $("title").textContent = about.title
  $("model").textContent = about.model
  $("model").hidden = false
  if (!writes()) about.media.image.most = about.limits.pictures // each text is compared with all of them
  media.setUp(about, filesChanged, (text) => notice(text))
  if (writes()) setUpWriting()
  else setUpComparing()
  $("rank-card").hidden = !about.does.includes("rank")
  $("look-card").hidden = !about.does.includes("look")
  hideNotice()
  document.body.dataset.ready = "yes"
}

const writes = () => about.does.includes("write")

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
    select.append(...(many && task ? [el("optgroup", { label: task.replaceAll("_", " ") }, ...options(list))] : options(list)))
  }
  select.hidden = !about.instructions.length
  select.addEventListener("change", () => {
    if (!select.value) return
    choose(select.value)
    select.value = ""
    $("instruction").dispatchEvent(new Event("input"))
  })
}

// -- What is asked -----------------------------------------------------------------------------------------------------

const instruction = () => $("instruction").value.trim()
const texts = () => instruction().split("\n").map((line) => line.trim()).filter(Boolean)

function message(text, files = media.files()) {
  return [{ role: "user", content: [...media.parts(files), { type: "text", text }] }]
}

/** Whether there is something to ask; says what is missing. */
function complete() {
  if (!media.files().length) return missing($("pick"), `${$("drop-label").textContent} first.`)
  if (!instruction()) return missing($("instruction"), writes() ? "Write an instruction, or choose one." : "Write at least one text.")
  const wrong = writes() && NUMBERS.map($).find((input) => !input.checkValidity())
  if (!wrong) return true
  $("options").open = true
  return missing(wrong, `${wrong.labels[0].textContent}: ${wrong.validationMessage}`)
}

function missing(element, text) {
  notice(text)
  element.focus()
  return false
}

function options() {
  const value = (id) => $(id).valueAsNumber
  const chosen = { max_tokens: value("max_tokens"), temperature: value("temperature") }
  if (chosen.temperature > 0 && value("top_p") < 1) chosen.top_p = value("top_p")
  if (!Number.isNaN(value("seed"))) chosen.seed = value("seed")
  return chosen
}

/** Runs `work` with a signal that Stop aborts; one at a time. */
async function run(work, again) {
  if (running) return
  running = new AbortController()
  hideNotice()
  busy(true)
  try {
    await work(running.signal)
  } catch (error) {
    if (error.name !== "AbortError") complain(error, again)
  } finally {
    running = null
    busy(false)
  }
}

function busy(yes) {
  const [from, to] = yes ? [$("submit"), $("stop")] : [$("stop"), $("submit")]
  const focused = document.activeElement === from
  from.hidden = true
  to.hidden = false
  if (focused) to.focus()
  document.body.classList.toggle("busy", yes)
}

// -- Answers -----------------------------------------------------------------------------------------------------------

function ask() {
  if (running || !about || !complete()) return
  if (writes()) run(answer, ask)
  else run(compare, ask)
}

async function answer(signal) {
  const files = media.files()
  const text = instruction()
  const body = { model: about.model, messages: message(text), ...options() }
  last = { body, files }
  begin(text)
  const began = performance.now()
  let tokens
  let stopped = false
  try {
    const streamed = { ...body, stream: true, stream_options: { include_usage: true } }
    for await (const chunk of events(await send("/v1/chat/completions", streamed, signal))) {
      $("answer").textContent += chunk.choices[0]?.delta.content ?? ""
      tokens = chunk.usage?.completion_tokens ?? tokens
    }
  } catch (error) {
    stopped = error.name === "AbortError"
    if (!stopped) throw error
  } finally {
    $("answer").classList.remove("writing")
    $("answer").ariaBusy = "false"
  }
  const seconds = `${((performance.now() - began) / 1000).toFixed(2)} s`
  const count = tokens === undefined ? [] : [`${tokens} ${tokens === 1 ? "token" : "tokens"}`]
  const facts = [...(stopped ? ["stopped"] : []), ...count, seconds].join(" · ")
  const result = $("answer").textContent.trim()
  finish(text, result, facts)
  const values = Object.fromEntries(NUMBERS.map((id) => [id, $(id).value]))
  remember({ files, text, result: result || facts, restore: () => restore({ files, text, values, body }, () => finish(text, result, facts)) })
}

function begin(text) {
  const card = $("answer-card")
  $("answer").textContent = ""
  $("answer").classList.add("writing")
  $("answer").ariaBusy = "true" // read out once, when it is whole
  $("answer-empty").hidden = true
  $("answer-foot").hidden = true
  $("asked").textContent = text
  $("asked").hidden = false
  const box = card.getBoundingClientRect()
  if (box.top < 0 || box.top > innerHeight - 120) card.scrollIntoView({ block: "start" })
}

function finish(text, result, facts) {
  $("asked").textContent = text
  $("asked").hidden = false
  $("answer").textContent = result
  $("answer-empty").hidden = true
  $("facts").textContent = facts
  $("answer-foot").hidden = false
}

function restore({ files, text, values, body }, show) {
  if (running) return
  hideNotice()
  $("instruction").value = text
  for (const [id, value] of Object.entries(values ?? {})) $(id).value = value
  media.replace(files)
  if (body) last = { body, files }
  show()
  lookSoon(0)
  say("Restored")
}

async function rank(signal) {
  const candidates = $("candidates").value.split(",").map((one) => one.trim()).filter(Boolean)
  if (candidates.length < 2) return missing($("candidates"), "Write two candidates or more, with commas between them.")
  if (candidates.length > about.limits.candidates) {
    return missing($("candidates"), `The server ranks at most ${about.limits.candidates} candidates.`)
  }
  const files = media.files()
  const text = instruction()
  const given = await json("/demo/rank", { model: about.model, messages: message(text), candidates }, signal)
  const rows = given.candidates.map((name, n) => ({
    name,
    share: given.probabilities[n],
    value: percent(given.probabilities[n]),
    note: `log-likelihood ${given.log_likelihoods[n].toFixed(2).replace("-", "−")}`,
  }))
  rows.sort((one, other) => other.share - one.share)
  const show = () => $("ranking").replaceChildren(el("p", { className: "asked" }, text), bars(rows))
  show()
  const result = `${rows[0].name} (${rows[0].value} of ${candidates.length})`
  remember({
    files,
    text,
    result,
    restore: () => {
      $("candidates").value = candidates.join(", ")
      restore({ files, text }, show)
    },
  })
}

async function compare(signal) {
  const files = media.files()
  const lines = texts()
  const answers = []
  for (const line of lines) answers.push(await json("/demo/match", { model: about.model, messages: message(line) }, signal))
  const groups = files.map((file, at) => {
    const group = el("div", { className: "compared" }, media.preview(file))
    const kinds = [
      ["similarity", "Similarity (cosine)", (x) => x, (x) => x.toFixed(3).replace("-", "−")],
      ["match", "Belong together", (x) => x, percent],
    ]
    const numbers = el("div", {})
    for (const [key, title, share, words] of kinds) {
      if (!answers[0][key]?.length) continue
      const rows = lines.map((name, n) => [name, [answers[n][key][at]].flat()[0]])
      rows.sort((one, other) => other[1] - one[1])
      numbers.append(el("h3", {}, title), bars(rows.map(([name, x]) => ({ name, share: share(x), value: words(x) }))))
    }
    group.append(numbers)
    return group
  })
  const show = () => $("compared").replaceChildren(...groups)
  show()
  remember({ files, text: lines.join(" / "), result: `${files.length} × ${lines.length} pairs`, restore: () => restore({ files, text: lines.join("\n") }, show) })
}

// -- What each query looks at -------------------------------------------------------------------------------------------

const lookIsOn = () => $("look").ariaExpanded === "true"

function toggleLook() {
  const on = !lookIsOn()
  $("look").ariaExpanded = String(on)
  $("look").textContent = on ? "Hide" : "Show"
  $("looking").hidden = !on
  if (on) look()
}

/** Looks again, once nothing has changed for so many milliseconds; only while the panel is shown. */
function lookSoon(delay) {
  clearTimeout(lookTimer)
  if (about && lookIsOn()) lookTimer = setTimeout(look, delay)
}

async function look() {
  looking?.abort()
  const mine = (looking = new AbortController())
  const panel = $("looking")
  const pictures = media.files().filter((file) => file.kind === "image")
  const text = writes() ? instruction() : texts()[0]
  if (!pictures.length || !text) {
    panel.replaceChildren(el("p", { className: "empty" }, "Add a picture and an instruction: the maps appear here."))
    return
  }
  panel.ariaBusy = "true"
  try {
    const given = await json("/demo/look", { model: about.model, messages: message(text, pictures.slice(0, 1)) }, mine.signal)
    if (mine !== looking) return
    $("look-heading").textContent = `What each ${readers(given.views)} looks at`
    await showLook(panel, given)
  } catch (error) {
    if (mine !== looking || error.name === "AbortError") return
    panel.replaceChildren(el("p", { className: "empty" }, error.message))
  } finally {
    if (mine === looking) panel.ariaBusy = "false"
  }
}

function filesChanged() {
  lookSoon(0)
}

// -- Notices -----------------------------------------------------------------------------------------------------------

let countdown

function notice(text, ...more) {
  clearInterval(countdown)
  const box = $("notice")
  // In front of what was asked: with systems that compare there is no answer's card.
  if (about && !writes()) $("compare-card").querySelector("h2").after(box)
  box.replaceChildren(el("p", {}, text), ...more)
  box.hidden = false
}

function hideNotice() {
  clearInterval(countdown)
  $("notice").hidden = true
  $("notice").replaceChildren()
}

function complain(error, again) {
  if (!(error instanceof Problem)) console.error(error)
  const text = error instanceof Problem ? error.message : `The page could not show this: ${error.message}`
  const button = el("button", { type: "button" }, "Try again")
  button.addEventListener("click", again)
  notice(text, button)
  if (!error.wait) return
  let left = error.wait
  button.disabled = true
  const tick = () => {
    button.textContent = left ? `Try again in ${left} s` : "Try again"
    button.disabled = left > 0
    if (left-- <= 0) clearInterval(countdown)
  }
  tick()
  countdown = setInterval(tick, 1000)
}

// -- Events --------------------------------------------------------------------------------------------------------------

const stop = () => running?.abort()

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
$("curl").addEventListener("click", () => {
  copy(curlCommand("/v1/chat/completions", last.body, last.files, hasToken()), $("curl"))
})
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
  if (event.key === "Escape" && running) stop()
})
if (/Mac|iPhone|iPad/.test(navigator.platform)) $("keys").querySelector("kbd").textContent = "⌘"

start()
