// Proposes names of the gallery in each text field with list="names" while one is typed.

import { ask } from "./api.js";
import { count, find, h } from "./elements.js";
import { inGallery } from "./place.js";

const PROPOSED = 20, TYPING_MS = 150;
let waiting = 0;

export function startNames() {
  for (const event of ["focusin", "input"]) {
    document.addEventListener(event, ({ target }) => {
      if (target.getAttribute("list") !== "names") return;
      clearTimeout(waiting);
      waiting = setTimeout(() => propose(target), TYPING_MS);
    });
  }
}

async function propose(field) {
  const typed = field.value;
  const asked = new URLSearchParams({ limit: PROPOSED, ...(typed && { query: typed }) });
  // A key that may not read identities enters names without proposals.
  const page = await ask(inGallery(`/identities?${asked}`)).catch(() => ({ results: [] }));
  find("#names").replaceChildren(...page.results.map((one) => h("option", { value: one.identity })));
  // A question shows whether the name is there, so that a typing error makes no new person.
  const known = field.form?.querySelector(".known");
  if (!known || field.value !== typed) return;
  const there = page.results.find((one) => one.identity === typed);
  known.textContent = there ? `${typed} has ${count(there.crops, "picture")} in this gallery.`
    : typed && page.next_cursor === null ? "A new name: the gallery has no picture of it." : "";
}
