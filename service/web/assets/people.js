// The people of the gallery, with pictures, search and order. Two chosen people can be merged.

import { ask, pages } from "./api.js";
import { attempt, find, h } from "./elements.js";
import { act } from "./naming.js";
import { merge, personCard, showPerson } from "./person.js";
import { addressOf, gallery, inGallery, item, panel } from "./place.js";
import { inNumbers, t } from "./texts.js";

const PAGE = 100;
const TYPING_MS = 200;
let waiting = 0;
const chosen = new Set();

export function startPeople() {
  for (const event of ["panel-shown", "gallery-changed"]) document.addEventListener(event, show);
  document.addEventListener("gallery-chosen", () => {
    chosen.clear();
    drawChosen();
  });
  find("#merge-chosen").addEventListener("click", () =>
    act(async () => {
      const [into, other] = chosen;
      chosen.clear();
      drawChosen();
      await merge(into, other);
    }),
  );
  find("#choose-none").addEventListener("click", () => {
    chosen.clear();
    drawChosen();
  });
  find("#sort").addEventListener("change", () => load(null));
  find("#find").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => load(null), TYPING_MS);
  });
}

function show({ type }) {
  if (panel() !== "identities") return;
  find("#all-people").hidden = item() !== "";
  find("#person").hidden = item() === "";
  for (const other of ["unnamed", "doubtful", "tracks"])
    find(`#to-${other}`).href = addressOf(gallery(), other);
  if (item()) showPerson(item());
  else load(null, type === "gallery-changed" ? find("#people").children.length : PAGE);
}

async function load(cursor, enough = PAGE) {
  const name = gallery();
  const query = find("#find").value;
  const sort = find("#sort").value;
  const more = find("#more-people");
  const list = find("#people");
  await attempt(find("#all-people"), async () => {
    const [page, { unnamed }] = await Promise.all([
      pages(inGallery("/identities"), { query, sort }, Math.max(enough, PAGE), cursor, PAGE),
      ask(inGallery("")),
    ]);
    if (gallery() !== name || find("#find").value !== query || find("#sort").value !== sort) return;
    find("#to-name").textContent = unnamed > 0 ? inNumbers(unnamed) : "";
    if (cursor === null) list.replaceChildren();
    list.append(
      ...page.results.map((person) =>
        h("li", { class: "tile" }, chooser(person.identity), personCard(person)),
      ),
    );
    if (list.children.length === 0)
      list.append(
        query ? h("li", { class: "hint" }, t("people.no_match", { query })) : nobody(unnamed),
      );
    more.hidden = page.next_cursor === null;
    more.onclick = () => load(page.next_cursor);
  });
}

function nobody(unnamed) {
  const link = (words, place, kind) =>
    h("a", { class: `button ${kind}`, href: addressOf(gallery(), place) }, words);
  return h(
    "li",
    { class: "empty" },
    h("p", { class: "big" }, t("people.nobody")),
    h(
      "p",
      { class: "row" },
      unnamed > 0 && link(t("people.name_pictures"), "unnamed", "main"),
      link(t("enroll.pictures"), "enroll", unnamed > 0 ? "" : "main"),
    ),
  );
}

function chooser(identity) {
  return h("input", {
    type: "checkbox",
    value: identity,
    checked: chosen.has(identity),
    "aria-label": t("people.choose", { name: identity }),
    onchange: ({ target }) => {
      if (target.checked) chosen.add(identity);
      else chosen.delete(identity);
      drawChosen();
    },
  });
}

function drawChosen() {
  for (const box of document.querySelectorAll("#people input")) box.checked = chosen.has(box.value);
  find("#chosen-people").hidden = chosen.size === 0;
  find("#chosen-people b").textContent = t("people.chosen", {
    count: chosen.size,
    names: [...chosen].join(", "),
  });
  find("#merge-chosen").disabled = chosen.size !== 2;
  find("#chosen-people .hint").textContent = chosen.size === 2 ? "" : t("people.choose_two");
}
