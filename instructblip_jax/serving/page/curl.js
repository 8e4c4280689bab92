// A request as a shell command.

/** `files` have their data URIs in `body`: a file on the user's disk is named instead, any other is written out. */
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

/** For a here-document that reads variables: the shell reads $, ` and \ in it. */
const escaped = (text) => text.replace(/[\\$`]/g, "\\$&")
