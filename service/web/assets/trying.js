// After a list is armed: try it with a picture, and see how the program of a camera sends.

import { copying } from "./access.js";
import { preview } from "./alerts.js";
import { ask, formOf, hasKey } from "./api.js";
import { askForBoxes } from "./boxes.js";
import { attempt, find, h, moment, percent, pictureOf, sentence, takeFiles } from "./elements.js";
import { lookAt } from "./photos.js";
import { gallery, inGallery } from "./place.js";
import { t, textNodes } from "./texts.js";

const TRIAL_CAMERA = "trial";
const KEY_DAYS = 90;
let madeKey = null;

export function startTrying() {
  const place = find("#sending");
  place.querySelector("[name=camera]").addEventListener("input", showCall);
  place
    .querySelector(".row")
    .append(
      h("button", { type: "button", onclick: makeKey }, t("trying.make_key")),
      ...copying(place.querySelector("[name=call]")).reverse(),
    );
  document.addEventListener("gallery-chosen", () => {
    madeKey = null;
  });
}

// Show how cameras send to an armed list. Only an administrator can make a key for one.
export function showSending({ state }, administers) {
  const place = find("#sending");
  place.hidden = state !== "armed";
  place.querySelector("button").hidden = !administers || !hasKey();
  showCall();
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function showCall() {
  const place = find("#sending");
  const camera = place.querySelector("[name=camera]").value;
  const key = madeKey?.key ?? t("key.stand_in");
  place.querySelector("[name=call]").value = [
    `curl ${quoted(`${location.origin}/v1/sightings`)}`,
    hasKey() && `-H ${quoted(`Authorization: Bearer ${key}`)}`,
    "-F images=@person.jpg",
    `--form-string ${quoted(`camera=${camera}`)}`,
    "--form-string track=17",
  ]
    .filter(Boolean)
    .join(" \\\n  ");
  find("#sending-key").replaceChildren(
    ...(madeKey
      ? [
          h("b", {}, `${t("trying.key_once")} `),
          ...textNodes("trying.key_may", { time: moment(madeKey.expires_at) }),
        ]
      : [t(hasKey() ? "trying.key_each" : "trying.key_none")]),
  );
}

const makeKey = () =>
  attempt(find("#sending"), async () => {
    const camera = find("#sending [name=camera]").value;
    madeKey = await ask("/v1/keys", {
      method: "POST",
      body: formOf([
        ["scopes", "sight"],
        ["gallery", gallery()],
        ["note", t("trying.key_note", { camera }).trim()],
        ["expires_days", KEY_DAYS],
      ]),
    });
    showCall();
  });

// Return a button that takes a picture and sends it as if a camera had seen it now.
export function tryButton(watch) {
  const label = h(
    "label",
    { class: "button" },
    t("trying.choose"),
    h("input", { type: "file", accept: "image/*" }),
  );
  takeFiles(label, ([file]) => file && tryPicture(file, watch));
  return h("div", { class: "trial" }, label, h("p", { class: "hint" }, t("trying.hint")));
}

async function tryPicture(file, watch) {
  const looked = await lookAt(file);
  const pictures = looked
    ? await askForBoxes(file, {
        looked,
        whole: true,
        single: true,
        action: t("trying.try"),
        each: t("trying.first_box"),
      })
    : [file];
  if (!pictures) return;
  const [picture] = pictures;
  const outcome = h("div", { class: "outcome", role: "status" }, h("p", {}, t("trying.comparing")));
  const dialog = h(
    "dialog",
    {
      class: "question wide",
      "aria-label": t("trying.title"),
      onclose: () => dialog.remove(),
    },
    h("h2", {}, t("trying.title")),
    outcome,
    h(
      "form",
      { method: "dialog", class: "row end" },
      h("button", { class: "main", autofocus: true }, t("close")),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  const shown = await attempt(outcome, async () => {
    const matches = await sight(picture, watch);
    const here = matches.find((match) => match.gallery === gallery());
    const others = matches.filter((match) => match !== here).map((match) => match.gallery);
    return [
      ...(here ? await raised(here) : await nothingRaised(picture, watch)),
      others.length > 0 &&
        h("p", { class: "name" }, t("trying.others", { lists: others.join(", ") })),
    ].filter(Boolean);
  });
  outcome.querySelector(":scope > p")?.remove();
  if (shown) outcome.append(...shown);
}

// Send the picture as one that a camera of the list sees now, and return its matches.
async function sight(picture, { settings }) {
  const body = formOf([
    ["images", picture],
    ["camera", settings.cameras[0] ?? TRIAL_CAMERA],
    ["wait", "true"],
  ]);
  try {
    const { results } = await ask("/v1/sightings", { method: "POST", body });
    return results[0].matches ?? [];
  } catch (error) {
    if (error.status === 403) throw new Error(t("trying.may_not"));
    throw error;
  }
}

async function raised({ alert_id: id }) {
  return [
    h("h3", {}, t("trying.raised")),
    h("ul", { class: "alerts" }, preview(await ask(`/v1/alerts/${id}`))),
    h("p", { class: "hint" }, t("trying.decide")),
  ];
}

// Say why a picture raised no alert: by the state of the list, or by the nearest person.
async function nothingRaised(picture, { why, settings }) {
  const reasons = [];
  if (why) reasons.push(sentence(t("trying.paused", { why })));
  if (settings.hours) {
    const [from, until] = settings.hours.split("-");
    reasons.push(t("trying.hours", { from, until, zone: settings.time_zone }));
  }
  reasons.push(await nearest(picture));
  if (reasons.length === 1) reasons.push(t("trying.not_enough"));
  return [
    h("h3", {}, t("trying.not_raised")),
    h("div", { class: "seen" }, pictureOf(picture, t("trying.picture"))),
    h("p", { class: "name" }, reasons.join(" ")),
  ];
}

async function nearest(picture) {
  const body = formOf([
    ["images", picture],
    ["top_k", 1],
  ]);
  const { results } = await ask(inGallery("/queries"), { method: "POST", body });
  if (results.length === 0) return t("trying.nobody");
  const [{ identity, probability }] = results;
  return t("trying.nearest", {
    name: identity ?? t("picture.unnamed"),
    share: percent(probability),
  });
}
