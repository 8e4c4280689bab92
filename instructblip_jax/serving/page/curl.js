// A request as a shell command.

/** `files` have their data URIs in `body`: a file from the user's disk is named, any other stays inline. */
export function curlCommand(path, body, files, withToken) {
  let text = escaped(JSON.stringify(body, null, 2))
  const lines = []
  files.filter((file) => file.onDisk).forEach((file, n) => {
    const data = file.url.slice(file.url.indexOf(",") + 1)
    text = text.replace(data, () => `$FILE${n + 1}`)
    lines.push(`FILE${n + 1}=$(base64 < ${quoted(file.name)} | tr -d '\\n')`)
  })
  const headers = ["-H 'Content-Type: application/json'"]
  if (withToken) headers.push('-H "Authorization: Bearer $TOKEN"')
  const command = `curl --no-buffer ${quoted(location.origin + path)} ${headers.join(" ")} --data-binary @- <<END`
  return [...lines, command, text, "END", ""].join("\n")
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`

/** Escapes $, ` and \, which the shell interprets in a here-document with variables. */
const escaped = (text) => text.replace(/[\\$`]/g, "\\$&")
