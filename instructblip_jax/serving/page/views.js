// Maps of attention: the views side by side, a scale for both, and one small map for each query.

import { el } from "./dom.js"
import { draw, drawScale, largest, mean, moved, peak, percentage } from "./heat.js"

const MEAN = -1
let query = MEAN // stays chosen when the instruction changes

/** What attends to the picture: queries, or the tokens of the text, which have no view without the text. */
export function readers(views) {
  return views.length === 1 && views[0].name === "with the instruction" ? "token" : "query"
}

/** Fills `panel` with the server's response: { views: [{ name, maps }], picture }. */
export async function showViews(panel, { views, picture }) {
  const image = await loaded(picture)
  const figures = views.map((view) => {
    const canvas = el("canvas", { width: 480, height: 480 })
    canvas.setAttribute("role", "img")
    const caption = el("figcaption", {}, capital(view.name))
    return { maps: view.maps, name: capital(view.name), canvas, caption, element: el("figure", {}, canvas, caption) }
  })
  const scale = el("canvas", { width: 256, height: 12 })
  scale.setAttribute("aria-hidden", "true")
  drawScale(scale)
  const largestShare = el("span")
  const told = el("p", { className: "told" })
  const reader = readers(views)
  if (query >= views[0].maps.length) query = MEAN

  function choose(n) {
    query = n
    const maps = figures.map((figure) => (n === MEAN ? mean(figure.maps) : figure.maps[n]))
    const top = Math.max(...maps.map(largest)) // one scale, so that the views can be compared
    figures.forEach((figure, at) => {
      draw(figure.canvas, image, maps[at], top)
      figure.canvas.setAttribute("aria-label", `${figure.name}: most attention, ${peak(maps[at])}`)
    })
    largestShare.textContent = percentage(top)
    if (maps.length < 2) return
    const who = n === MEAN ? "the queries' mean attention" : `query ${n + 1}'s attention`
    const text = `The instruction moves ${percentage(moved(...maps))} of ${who}. `
    told.replaceChildren(text, ...(n === moves.query ? [] : [furthest]))
  }

  const moves = mostMoved(views)
  const most = `Most: query ${moves.query + 1}, ${percentage(moves.share)}`
  const furthest = el("button", { type: "button", className: "link" }, most)
  furthest.addEventListener("click", () => {
    const radio = panel.querySelectorAll("input")[moves.query + 1]
    radio.focus()
    radio.click()
  })

  panel.replaceChildren(
    el("div", { className: `views of-${figures.length}` }, ...figures.map((figure) => figure.element)),
    el("p", { className: "scale" }, "0 %", scale, largestShare, "of the attention, per patch"),
    told,
    picker(figures[0].maps, reader, image, choose),
  )
  choose(query)
}

/** The query whose attention differs most between the first two views. */
function mostMoved([one, other]) {
  const shares = other ? one.maps.map((map, n) => moved(map, other.maps[n])) : [0]
  const share = Math.max(...shares)
  return { query: shares.indexOf(share), share }
}

function picker(maps, reader, image, choose) {
  const options = [MEAN, ...maps.keys()].map((n) => {
    const name = n === MEAN ? "Mean of all" : `${capital(reader)} ${n + 1}`
    const radio = el("input", { type: "radio", name: "query", value: n, checked: n === query })
    const small = el("canvas", { width: 72, height: 72 })
    const map = n === MEAN ? mean(maps) : maps[n]
    draw(small, image, map, largest(map))
    small.setAttribute("aria-hidden", "true")
    radio.setAttribute("aria-label", name)
    radio.addEventListener("change", () => choose(n))
    const label = el("span", { ariaHidden: "true" }, n === MEAN ? "Mean" : `${n + 1}`)
    return el("label", { title: name }, radio, small, label)
  })
  return el("fieldset", { className: "queries" }, el("legend", {}, `One ${reader}, or the mean of all`), ...options)
}

function loaded(url) {
  return new Promise((resolve) => {
    const image = new Image()
    image.onload = () => resolve(image)
    image.onerror = () => resolve(null) // the maps are worth seeing without it
    image.src = url
  })
}

const capital = (text) => text[0].toUpperCase() + text.slice(1)
