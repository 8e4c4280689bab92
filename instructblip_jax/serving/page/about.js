// What the server says of its model, once it has said it.

export let about

export function setAbout(given) {
  about = given
}

/** Whether the model writes answers; if not, it compares pictures with texts. */
export const writes = () => about.does.includes("write")
