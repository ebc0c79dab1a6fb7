// Start the page: galleries, panels, and the key if the service asks for one.

import { ask, hasKey, useKey } from "./api.js";
import { attempt, find, h, showForm } from "./elements.js";
import { startCases } from "./cases.js";
import { startDoubtful } from "./doubtful.js";
import { startEnrollment } from "./enroll.js";
import { startGalleries } from "./galleries.js";
import { startImports } from "./imports.js";
import { startKeys } from "./keys.js";
import { startLately } from "./lately.js";
import { clearOutcomes } from "./naming.js";
import { startNames } from "./names.js";
import { startPeople } from "./people.js";
import { setDetector, startPhotos } from "./photos.js";
import { addressOf, changed, gallery, panel } from "./place.js";
import { startSearch } from "./search.js";
import { startSeen } from "./seen.js";
import { showState, startStatus } from "./status.js";
import { startTabs } from "./tabs.js";
import { startTracks } from "./tracks.js";
import { clearDone } from "./undo.js";
import { startUnnamed } from "./unnamed.js";
import { choose, LANGUAGE, LANGUAGES, t } from "./texts.js";
import { startWatch } from "./watch.js";

let galleries = [];

async function loadGalleries() {
  await attempt(find("main"), async () => {
    galleries = (await ask("/v1/galleries")).results;
    find("#key").hidden = !hasKey();
    document.dispatchEvent(new CustomEvent("galleries-read", { detail: galleries }));
    find("#gallery").replaceChildren(...galleries.map((summary) => h("option", {}, summary.name)));
    if (!gallery() && galleries.length > 0) location.replace(addressOf(galleries[0].name, panel()));
    show();
    await showArtefact();
    if (gallery() && !galleries.some((summary) => summary.name === gallery())) {
      throw new Error(t("gallery.unknown", { name: gallery() }));
    }
  });
}

function show() {
  const chosen = galleries.find((summary) => summary.name === gallery());
  find("#gallery").value = gallery();
  for (const section of document.querySelectorAll("main > section"))
    section.hidden = section.id !== panel();
  // A panel without its own link is part of another panel.
  const shown = find(`#${panel()}`).dataset.of ?? panel();
  for (const link of document.querySelectorAll("nav a")) {
    link.href = addressOf(gallery(), link.dataset.panel);
    if (link.dataset.panel === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showState(chosen ?? null);
  if (chosen) {
    offerScorings(chosen.calibration);
    find("#follow").hidden = !chosen.time_evidence;
  }
}

// Offer the scorings of the gallery’s artefact. Its default is chosen at first.
function offerScorings({ scoring, scorings }) {
  const select = find("#query").elements.scoring;
  for (const option of select.options)
    option.hidden = option.disabled = !(option.value in scorings);
  if (!select.dataset.chosen || select.selectedOptions[0]?.disabled !== false)
    select.value = scoring;
}

async function showArtefact() {
  const place = find("#artefact");
  if (place.textContent) return;
  // A key without access to the model can use the rest of the page.
  const model = await ask("/v1/model").catch(() => null);
  if (model) {
    setDetector(model.people_detector);
    place.append(
      h("summary", {}, t("artefact.summary", { artefact: model.artefact })),
      h("p", { lang: "en" }, model.provenance.terms),
      h(
        "ul",
        {},
        ["research", "business", "resale"].map((use) =>
          h("li", {}, t(`artefact.${use}`, { answer: t(`artefact.${model.permitted_use[use]}`) })),
        ),
        h("li", { lang: "en" }, model.permitted_use.data),
        h("li", {}, t("artefact.beyond_copyright")),
      ),
    );
  }
}

let asking = false;

function askForKey(why) {
  if (asking) return;
  asking = true;
  const field = h("input", {
    type: "password",
    autocomplete: "off",
    value: "",
    placeholder: "gmn_…",
  });
  const dialog = showForm(
    { class: "question", "aria-label": t("key") },
    (answer) => {
      asking = false;
      if (answer !== "yes") return;
      useKey(field.value.trim());
      clearDone();
      changed();
      document.dispatchEvent(new Event("panel-shown"));
    },
    h("h2", {}, t("key")),
    h("p", {}, why),
    h("label", {}, t("key"), field),
    h("p", { class: "hint" }, t("key.hint")),
    h(
      "div",
      { class: "row end" },
      h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, t("cancel")),
      h("button", { class: "main" }, t("key.use")),
    ),
  );
}

find("#gallery").addEventListener("change", (event) => {
  location.hash = addressOf(event.target.value, panel());
});
find("#query").elements.scoring.addEventListener("change", (event) => {
  event.target.dataset.chosen = "yes";
});
find("#key").addEventListener("click", () => askForKey(t("key.another")));
document.addEventListener("key-wanted", (event) =>
  askForKey(hasKey() ? event.detail : t("key.wanted")),
);
for (const event of ["gallery-changed", "gallery-chosen", "searched"])
  document.addEventListener(event, loadGalleries);
let before = gallery();
window.addEventListener("hashchange", () => {
  find("#sheet").close();
  clearOutcomes();
  show();
  if (before !== gallery()) document.dispatchEvent(new Event("gallery-chosen"));
  before = gallery();
  document.dispatchEvent(new Event("panel-shown"));
});

for (const [language, name] of Object.entries(LANGUAGES))
  find("#language").append(h("option", { value: language, lang: language }, name));
find("#language").value = LANGUAGE;
find("#language").addEventListener("change", (event) => choose(event.target.value));

find("#header-more").addEventListener("click", ({ currentTarget: button }) =>
  button.setAttribute("aria-expanded", String(button.ariaExpanded !== "true")),
);

startStatus();
startTabs();
startNames();
startKeys();
startLately();
startSearch();
startSeen();
startCases();
startEnrollment();
startImports();
startPeople();
startPhotos();
startUnnamed();
startDoubtful();
startTracks();
startWatch();
startGalleries();
show();
await loadGalleries();
document.dispatchEvent(new Event("panel-shown"));
