// The input of a request: files, text and options. Only one request runs at a time, and it can be stopped.

import { writes } from "./about.js"
import { $ } from "./dom.js"
import * as media from "./media.js"
import { complain, hideNotice, notice } from "./notices.js"

export const NUMBERS = ["temperature", "top_p", "max_tokens", "seed"]

let running = null // the AbortController of what is being answered

export const instruction = () => $("instruction").value.trim()
export const texts = () => instruction().split("\n").map((line) => line.trim()).filter(Boolean)

export function message(text, files = media.files()) {
  return [{ role: "user", content: [...media.parts(files), { type: "text", text }] }]
}

/** True if the input is complete; otherwise reports what is missing. */
export function complete() {
  if (!media.files().length) return missing($("pick"), `${$("drop-label").textContent} first.`)
  if (!instruction()) {
    return missing($("instruction"), writes() ? "Write an instruction, or choose one." : "Write at least one text.")
  }
  const wrong = writes() && NUMBERS.map($).find((input) => !input.checkValidity())
  if (!wrong) return true
  $("options").open = true
  return missing(wrong, `${wrong.labels[0].textContent}: ${wrong.validationMessage}`)
}

export function missing(element, text) {
  notice(text)
  element.focus()
  return false
}

export function options() {
  const value = (id) => $(id).valueAsNumber
  const chosen = { max_tokens: value("max_tokens"), temperature: value("temperature") }
  if (chosen.temperature > 0 && value("top_p") < 1) chosen.top_p = value("top_p")
  if (!Number.isNaN(value("seed"))) chosen.seed = value("seed")
  return chosen
}

/** Runs `work` with a signal that Stop aborts; one at a time. */
export async function run(work, again) {
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

export const isRunning = () => running !== null

export const stop = () => running?.abort()
