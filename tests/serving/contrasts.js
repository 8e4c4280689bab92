// Texts whose contrast with what they stand on is below 4.5:1 (WCAG AA).
const numbers = (text) => text.match(/[\d.]+/g).map(Number)
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, n) => sum + weight * linear(rgb[n] / 255), 0)
const ground = (element) => {
  for (; element; element = element.parentElement) {
    const colour = numbers(getComputedStyle(element).backgroundColor)
    if (colour.length === 3 || colour[3] === 1) return colour
  }
}
const low = []
for (const element of document.body.querySelectorAll("*")) {
  const own = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE)
  const text = own.map((node) => node.textContent.trim()).join("")
  if (!text || !element.checkVisibility() || element.matches("canvas, option, optgroup, .remove")) continue
  const [a, b] = [light(numbers(getComputedStyle(element).color)), light(ground(element))].sort((x, y) => y - x)
  if ((a + 0.05) / (b + 0.05) < 4.5) low.push(`${text}: ${((a + 0.05) / (b + 0.05)).toFixed(2)}`)
}
return low
