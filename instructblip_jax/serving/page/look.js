// The panel of "What each query looks at": its visibility, and its updates when the picture or the instruction changes.

import { about, writes } from "./about.js"
import { json } from "./api.js"
import { instruction, message, texts } from "./asking.js"
import { $, el } from "./dom.js"
import * as media from "./media.js"
import { readers, showViews } from "./views.js"

let looking = null // the AbortController of the newest request
let timer

const lookIsOn = () => $("look").ariaExpanded === "true"

export function toggleLook() {
  const on = !lookIsOn()
  $("look").ariaExpanded = String(on)
  $("look").textContent = on ? "Hide" : "Show"
  $("looking").hidden = !on
  if (on) look()
}

/** Requests new maps once nothing has changed for this many milliseconds; only while the panel is shown. */
export function lookSoon(delay) {
  clearTimeout(timer)
  if (about && lookIsOn()) timer = setTimeout(look, delay)
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
    const messages = message(text, pictures.slice(0, 1))
    const given = await json("/demo/look", { model: about.model, messages }, mine.signal)
    if (mine !== looking) return
    $("look-heading").textContent = `What each ${readers(given.views)} looks at`
    await showViews(panel, given)
    if (pictures.length > 1) panel.prepend(el("p", { className: "help" }, `In the first picture, ${pictures[0].name}.`))
  } catch (error) {
    if (mine !== looking || error.name === "AbortError") return
    panel.replaceChildren(el("p", { className: "empty" }, error.message))
  } finally {
    if (mine === looking) panel.ariaBusy = "false"
  }
}
