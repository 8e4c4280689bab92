// Helpers for the DOM.

const DONE = "Copied"
const COPIED = 1200 // milliseconds that a button says so

export const $ = (id) => document.getElementById(id)

/** An element with properties and children: el("p", { className: "help" }, "text", other). */
export function el(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...children)
  return element
}

/** Announces a text to screen readers only. */
export function say(text) {
  $("said").textContent = text
}

/** Copies a text to the clipboard, and confirms it on the button. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text)
  } catch {
    copyBySelection(text) // pages that are not from localhost or https have no clipboard
  }
  say(DONE)
  const title = button.textContent
  if (title === DONE) return
  button.textContent = DONE
  setTimeout(() => (button.textContent = title), COPIED)
}

function copyBySelection(text) {
  const area = el("textarea", { value: text, readOnly: true, className: "hidden" })
  const before = document.activeElement
  document.body.append(area)
  area.select()
  document.execCommand("copy")
  area.remove()
  before?.focus()
}
