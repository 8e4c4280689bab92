// The requests and answers since the page was loaded; a click restores one.

import { $, el } from "./dom.js"
import { preview } from "./media.js"

const MOST = 50
let entries = []

/** An entry is { files, text, result: a short text, restore: the click handler }. */
export function remember(entry) {
  entries = [entry, ...entries].slice(0, MOST)
  $("history-card").hidden = false
  $("history").replaceChildren(...entries.map(item))
}

function item(entry) {
  const asked = el("span", { className: "asked" }, entry.text)
  const words = el("span", { className: "words" }, asked, el("span", {}, entry.result))
  const button = el("button", { type: "button", className: "past" }, ...entry.files.slice(0, 1).map(thumbnail), words)
  button.setAttribute("aria-label", `Restore: ${entry.text} ${entry.result}`)
  button.addEventListener("click", entry.restore)
  return el("li", {}, button)
}

function thumbnail(file) {
  const element = preview(file, false)
  if (element.alt) element.alt = ""
  return element
}
