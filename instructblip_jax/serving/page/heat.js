// Attention as heat: maps [rows][columns] whose entries sum to 1, drawn over a picture.

// Share of the largest value; red, green, blue; opacity. More attention is brighter, independent of hue.
const STOPS = [
  [0, 70, 20, 120, 0],
  [0.25, 120, 36, 140, 0.5],
  [0.5, 214, 64, 96, 0.68],
  [0.75, 250, 146, 50, 0.8],
  [1, 255, 232, 120, 0.92],
]

/** Red, green, blue and opacity of a share of the largest value, from 0 to 1. */
function colour(share) {
  const x = Math.min(1, Math.max(0, share))
  const next = Math.max(1, STOPS.findIndex((stop) => stop[0] >= x))
  const [from, to] = [STOPS[next - 1], STOPS[next]]
  const part = (x - from[0]) / (to[0] - from[0])
  return from.slice(1).map((value, n) => value + part * (to[n + 1] - value))
}

const TABLE = Array.from({ length: 256 }, (_, n) => colour(n / 255))

export function mean(maps) {
  return maps[0].map((row, y) => row.map((_, x) => maps.reduce((sum, map) => sum + map[y][x], 0) / maps.length))
}

export const largest = (map) => Math.max(...map.flat())

/** Half the sum of absolute differences: the share of the attention that differs. */
export function moved(one, other) {
  return one.flat().reduce((sum, value, n) => sum + Math.abs(value - other.flat()[n]), 0) / 2
}

/** Where a map is largest, in words. */
export function peak(map) {
  const flat = map.flat()
  const place = flat.indexOf(Math.max(...flat))
  const columns = map[0].length
  const row = `row ${Math.floor(place / columns) + 1} of ${map.length}`
  return `${percentage(flat[place])} in ${row}, column ${(place % columns) + 1} of ${columns}`
}

export const percentage = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`

/** Draws `picture`, an image or null, and `map` over it; `most` is the value of the strongest colour. */
export function draw(canvas, picture, map, most) {
  const context = canvas.getContext("2d")
  const { width, height } = canvas
  context.clearRect(0, 0, width, height)
  if (picture) {
    context.imageSmoothingQuality = "high"
    context.drawImage(picture, 0, 0, width, height)
    // Less colour and less light, so that the heat stands out from the picture.
    for (const [mode, colour] of [["saturation", "rgb(128 128 128 / 70%)"], ["source-over", "rgb(0 0 0 / 10%)"]]) {
      context.globalCompositeOperation = mode
      context.fillStyle = colour
      context.fillRect(0, 0, width, height)
    }
  }
  const heat = new OffscreenCanvas(width, height)
  const over = heat.getContext("2d")
  over.putImageData(upsampled(map, width, height, most), 0, 0)
  context.drawImage(heat, 0, 0)
}

/** The map at every pixel, bilinear between the centres of its patches, in colours. */
function upsampled(map, width, height, most) {
  const image = new ImageData(width, height)
  const columns = places(map[0].length, width)
  const rows = places(map.length, height)
  let at = 0
  for (const [top, bottom, down] of rows) {
    for (const [left, right, along] of columns) {
      const upper = map[top][left] + along * (map[top][right] - map[top][left])
      const lower = map[bottom][left] + along * (map[bottom][right] - map[bottom][left])
      const share = most > 0 ? (upper + down * (lower - upper)) / most : 0
      const [red, green, blue, opacity] = TABLE[Math.round(255 * Math.min(1, share))]
      image.data[at++] = red
      image.data[at++] = green
      image.data[at++] = blue
      image.data[at++] = 255 * opacity
    }
  }
  return image
}

/** For every pixel of a side: the two patches whose centres enclose it, and its distance from the first. */
function places(patches, pixels) {
  return Array.from({ length: pixels }, (_, n) => {
    const place = Math.min(patches - 1, Math.max(0, ((n + 0.5) * patches) / pixels - 0.5))
    const first = Math.floor(place)
    return [first, Math.min(patches - 1, first + 1), place - first]
  })
}

/** The scale from none to the strongest colour, on the background of pictures. */
export function drawScale(canvas) {
  const context = canvas.getContext("2d")
  context.fillStyle = "rgb(40 40 40)"
  context.fillRect(0, 0, canvas.width, canvas.height)
  for (let x = 0; x < canvas.width; x++) {
    const [red, green, blue, opacity] = TABLE[Math.round((255 * x) / (canvas.width - 1))]
    context.fillStyle = `rgb(${red} ${green} ${blue} / ${opacity})`
    context.fillRect(x, 0, 1, canvas.height)
  }
}
