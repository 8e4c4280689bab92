// Bars: one for each candidate, text or picture, with its value.

import { el } from "./dom.js"

/** A list of bars from `rows` of { name, share from 0 to 1, value: the formatted number, note }. */
export function bars(rows) {
  const best = Math.max(...rows.map((row) => row.share))
  const list = el("ol", { className: "bars" })
  for (const row of rows) {
    const fill = el("span", { className: "fill" })
    fill.style.width = `${(100 * Math.min(1, Math.max(0, row.share))).toFixed(2)}%`
    const track = el("span", { className: "track" }, fill)
    track.setAttribute("aria-hidden", "true")
    const item = el("li", { className: row.share === best ? "best" : "" })
    item.append(el("span", { className: "name" }, row.name), el("span", { className: "value" }, row.value), track)
    if (row.note) item.append(el("small", {}, row.note))
    list.append(item)
  }
  return list
}

export function percent(share) {
  const value = 100 * share
  if (value < 0.1) return value === 0 ? "0 %" : "< 0.1 %"
  if (value > 99.9) return value === 100 ? "100 %" : "> 99.9 %"
  return `${value.toFixed(value < 10 || value > 99 ? 1 : 0)} %`
}
