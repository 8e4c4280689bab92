// The client of the server's API: requests with the bearer token, readable errors, and event streams.

let token = "" // in memory only: it is gone when the page is reloaded
let askForToken = async () => ""

/** `ask` is called when the server wants a token, and returns one, or "" if there is none. */
export function onToken(ask) {
  askForToken = ask
}

/** An error with a message for users; `wait` is the number of seconds before a retry is useful. */
export class Problem extends Error {
  constructor(message, wait = 0) {
    super(message)
    this.wait = wait
  }
}

/** The response to a request whose status is 200; any other status throws a `Problem`. */
export async function send(path, body, signal) {
  for (let tries = 0; ; tries++) {
    const headers = {}
    if (token) headers.Authorization = `Bearer ${token}`
    if (body) headers["Content-Type"] = "application/json"
    let response
    try {
      const method = body ? "POST" : "GET"
      response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal })
    } catch (error) {
      throw error.name === "AbortError" ? error : gone()
    }
    if (response.ok) return response
    if (response.status !== 401) throw await problem(response)
    token = await askForToken(tries > 0)
    if (!token) throw new Problem("The server needs a token. Ask again to enter it.")
  }
}

export async function json(path, body, signal) {
  return (await send(path, body, signal)).json()
}

export function hasToken() {
  return token !== ""
}

/** The chunks of a streamed answer, until the server says [DONE]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
  let rest = ""
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : gone()
    })
    if (done) throw new Problem("The answer ended early: the connection to the server was lost. Ask again.")
    const lines = (rest + value).split(/\r?\n/)
    rest = lines.pop()
    for (const line of lines) {
      if (!line.startsWith("data:")) continue
      const data = line.slice(5).trim()
      if (data === "[DONE]") return
      const chunk = JSON.parse(data)
      if (chunk.error) throw new Problem(`The server stopped the answer: ${sentence(chunk.error.message)}`)
      yield chunk
    }
  }
}

function gone() {
  return new Problem("The server does not answer. Check that `instructblip serve` is still running, then ask again.")
}

async function problem(response) {
  const text = await response.text().catch(() => "")
  let error = {}
  try {
    error = JSON.parse(text).error ?? {}
  } catch {
    // A proxy in front of the server may answer with its own page.
  }
  const said = error.message ? sentence(error.message) : `It answered with status ${response.status}.`
  switch (response.status) {
    case 413:
      return new Problem(`This is too large for the server. ${said} Use fewer or smaller files.`)
    case 429: {
      const wait = Math.max(1, Math.ceil(Number(response.headers.get("Retry-After")) || 1))
      return new Problem("The server is busy: its queue is full.", wait)
    }
    case 503:
      return new Problem(`The server is starting or stopping. ${said} Try again in a moment.`, 1)
    case 400:
    case 404:
    case 422:
      return new Problem(`The server cannot answer this: ${said}`)
    default:
      return new Problem(`Something went wrong in the server. ${said} Its log tells more.`)
  }
}

function sentence(text) {
  return /[.!?]$/.test(text.trim()) ? text.trim() : `${text.trim()}.`
}
