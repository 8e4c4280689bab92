// Error messages above the results.

import { about, writes } from "./about.js"
import { Problem } from "./api.js"
import { $, el } from "./dom.js"

let countdown

export function notice(text, ...more) {
  clearInterval(countdown)
  const box = $("notice")
  // Systems that compare have no answer card, which contains the box at first.
  if (about && !writes()) $("compare-card").querySelector("h2").after(box)
  box.replaceChildren(el("p", {}, text), ...more)
  box.hidden = false
}

export function hideNotice() {
  clearInterval(countdown)
  $("notice").hidden = true
  $("notice").replaceChildren()
}

/** Shows an error, with a button that calls `again`, enabled once the server's wait is over. */
export function complain(error, again) {
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
