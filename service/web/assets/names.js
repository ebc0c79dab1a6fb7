// Propose names of the gallery while a person types into a field with list="names".

import { ask } from "./api.js";
import { find, h, nfc } from "./elements.js";
import { inGallery } from "./place.js";
import { t } from "./texts.js";

const PROPOSED = 20;
const TYPING_MS = 150;
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
  // A key that may not read identities gets no proposals.
  const page = await ask(inGallery(`/identities?${asked}`)).catch(() => ({ results: [] }));
  find("#names").replaceChildren(
    ...page.results.map((person) => h("option", { value: person.identity })),
  );
  // Show whether the name exists, so that a typing error does not create a person.
  const known = field.form?.querySelector(".known");
  if (!known || field.value !== typed) return;
  const existing = page.results.find((person) => nfc(person.identity) === nfc(typed));
  known.textContent = existing
    ? t("names.known", { name: typed, count: existing.crops })
    : typed && page.next_cursor === null
      ? t("names.new")
      : "";
}
