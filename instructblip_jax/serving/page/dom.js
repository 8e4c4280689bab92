// Shorthands for the document.

const DONE = "Copied"
const COPIED = 1200 // milliseconds that a button says so

export const $ = (id) => document.getElementById(id)

/** An element with properties and children: el("p", { className: "help" }, "text", other). */
export function el(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties)
  element.append(...children)
  return element
}

/** Tells a screen reader, and nobody else. */
export function say(text) {
  $("said").textContent = text
}

/** Puts a text on the clipboard, and says so on the button that was pressed. */
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
