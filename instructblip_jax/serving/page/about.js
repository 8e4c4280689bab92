// The server's description of its model, once it has been loaded.

export let about

export function setAbout(given) {
  about = given
}

/** True if the model generates text; otherwise it compares pictures with texts. */
export const writes = () => about.does.includes("write")
