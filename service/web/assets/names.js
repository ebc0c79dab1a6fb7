// Proposes names of the gallery in each text field with list="names" while one is typed.

import { ask } from "./api.js";
import { find, h } from "./elements.js";
import { inGallery } from "./place.js";

const PROPOSED = 20, TYPING_MS = 150;
let waiting = 0;

export function startNames() {
  for (const event of ["focusin", "input"]) {
    document.addEventListener(event, ({ target }) => {
      if (target.getAttribute("list") !== "names") return;
      clearTimeout(waiting);
      waiting = setTimeout(() => propose(target.value), TYPING_MS);
    });
  }
}

async function propose(typed) {
  const asked = new URLSearchParams({ limit: PROPOSED, ...(typed && { query: typed }) });
  // A key that may not read identities enters names without proposals.
  const page = await ask(inGallery(`/identities?${asked}`)).catch(() => ({ results: [] }));
  find("#names").replaceChildren(...page.results.map((one) => h("option", { value: one.identity })));
}
