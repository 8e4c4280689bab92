// Requests, displays and records answers, rankings and comparisons.

import { about } from "./about.js"
import { events, hasToken, json, send } from "./api.js"
import { instruction, isRunning, message, missing, NUMBERS, options, texts } from "./asking.js"
import { bars, percent } from "./bars.js"
import { curlCommand } from "./curl.js"
import { $, copy, el, say } from "./dom.js"
import { remember } from "./history.js"
import { lookSoon } from "./look.js"
import * as media from "./media.js"
import { hideNotice } from "./notices.js"

let last = null // what the answer on the page was asked with: { body, files }

export async function answer(signal) {
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
  const again = () => restore({ files, text, values, body }, () => finish(text, result, facts))
  remember({ files, text, result: result || facts, restore: again })
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
  $("answer-empty").textContent = "The answer is empty."
  $("answer-empty").hidden = result !== ""
  $("facts").textContent = facts
  $("answer-foot").hidden = false
}

function restore({ files, text, values, body }, show) {
  if (isRunning()) return
  hideNotice()
  $("instruction").value = text
  for (const [id, value] of Object.entries(values ?? {})) $(id).value = value
  media.replace(files)
  if (body) last = { body, files }
  show()
  lookSoon(0)
  say("Restored")
}

export async function rank(signal) {
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

export async function compare(signal) {
  const files = media.files()
  const lines = texts()
  const answers = []
  for (const line of lines) {
    answers.push(await json("/demo/match", { model: about.model, messages: message(line) }, signal))
  }
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
  const result = `${files.length} × ${lines.length} pairs`
  const again = () => restore({ files, text: lines.join("\n") }, show)
  remember({ files, text: lines.join(" / "), result, restore: again })
}

export function copyCurl() {
  copy(curlCommand("/v1/chat/completions", last.body, last.files, hasToken()), $("curl"))
}
