// After a list is armed: try it with a picture, and see how the program of a camera sends.

import { copying } from "./access.js";
import { preview } from "./alerts.js";
import { ask, formOf, hasKey } from "./api.js";
import { askForBoxes } from "./boxes.js";
import { attempt, find, h, moment, percent, pictureOf, sentence, takeFiles } from "./elements.js";
import { lookAt } from "./photos.js";
import { gallery, inGallery } from "./place.js";

const TRIAL_CAMERA = "trial";
const KEY_DAYS = 90;
const MAY_NOT_SEND =
  "The key of this page may not send what a camera sees. It takes a key that may do that (sight) and that may search and read (query).";
let madeKey = null;

export function startTrying() {
  const place = find("#sending");
  place.querySelector("[name=camera]").addEventListener("input", showCall);
  place
    .querySelector(".row")
    .append(
      h("button", { type: "button", onclick: makeKey }, "Make a key for it"),
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
  const key = madeKey?.key ?? "THE-KEY-OF-THE-CAMERA";
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
          h("b", {}, "The key is shown this once: copy the call now. "),
          "It may only send what cameras see, for this list alone, until ",
          moment(madeKey.expires_at),
          ".",
        ]
      : [
          hasKey()
            ? "Each camera has a key of its own, which may only send what it sees (sight)."
            : "This service asks for no key as long as only this machine reaches it.",
        ]),
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
        ["note", `camera ${camera}`.trim()],
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
    "Try with a picture…",
    h("input", { type: "file", accept: "image/*" }),
  );
  takeFiles(label, ([file]) => file && tryPicture(file, watch));
  return h(
    "div",
    { class: "trial" },
    label,
    h(
      "p",
      { class: "hint" },
      "Take a picture of someone on the list. A match raises an alert like any other; without one nothing is kept.",
    ),
  );
}

async function tryPicture(file, watch) {
  const looked = await lookAt(file);
  const pictures = looked
    ? await askForBoxes(file, {
        looked,
        whole: true,
        single: true,
        action: "Try",
        each: "the first one is tried",
      })
    : [file];
  if (!pictures) return;
  const [picture] = pictures;
  const outcome = h("div", { class: "outcome", role: "status" }, h("p", {}, "Comparing…"));
  const dialog = h(
    "dialog",
    {
      class: "question wide",
      "aria-label": "Try with a picture",
      onclose: () => dialog.remove(),
    },
    h("h2", {}, "Try with a picture"),
    outcome,
    h(
      "form",
      { method: "dialog", class: "row end" },
      h("button", { class: "main", autofocus: true }, "Close"),
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
        h("p", { class: "name" }, `It raised alerts of other lists too: ${others.join(", ")}.`),
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
    if (error.status === 403) throw new Error(MAY_NOT_SEND);
    throw error;
  }
}

async function raised({ alert_id: id }) {
  return [
    h("h3", {}, "It raised an alert."),
    h("ul", { class: "alerts" }, preview(await ask(`/v1/alerts/${id}`))),
    h("p", { class: "hint" }, "Decide on it among the alerts, as on any other."),
  ];
}

// Say why a picture raised no alert: by the state of the list, or by the nearest person.
async function nothingRaised(picture, { why, settings }) {
  const reasons = [];
  if (why) reasons.push(`nothing is compared with the list at the moment: ${why}`);
  if (settings.hours)
    reasons.push(
      `the list is watched from ${settings.hours.replace("-", " to ")} (${settings.time_zone}) only, and the picture counts as seen now`,
    );
  reasons.push(await nearest(picture));
  if (reasons.length === 1)
    reasons.push(
      "that is not enough for an alert of this list. If it is this person, enroll more pictures, from several cameras",
    );
  return [
    h("h3", {}, "It raised no alert."),
    h("div", { class: "seen" }, pictureOf(picture, "The picture that was tried")),
    h("p", { class: "name" }, reasons.map(sentence).join(" ")),
  ];
}

async function nearest(picture) {
  const body = formOf([
    ["images", picture],
    ["top_k", 1],
  ]);
  const { results } = await ask(inGallery("/queries"), { method: "POST", body });
  if (results.length === 0) return "nobody is on the list";
  const [{ identity, probability }] = results;
  return `the nearest on the list is ${identity ?? "a picture without a name"}, with a probability of ${percent(probability)}`;
}
