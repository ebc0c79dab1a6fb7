// The visits of one person by day: in lanes of cameras, and as a list with pictures and gaps.

import { ask } from "./api.js";
import { openCrop, stepsOf } from "./crop.js";
import { attempt, h, percent, thumbnail } from "./elements.js";
import { t } from "./texts.js";
import { timeline } from "./timeline.js";
import { clockOf, dayOf, pictureOfCrop } from "./visits.js";

const PICTURES = 6;
const MINUTE_S = 60;
const HOUR_S = 60 * MINUTE_S;
const DAY_S = 24 * HOUR_S;

// Read the visits at a path, and show them in `place`; without any known time they say nothing.
export const showVisits = (place, path) =>
  attempt(place, async () => {
    const { results } = await ask(path);
    if (results.every(({ last_seen: time }) => time === null)) {
      place.replaceChildren(h("p", { class: "hint" }, t("line.no_times")));
      return;
    }
    const days = [...Map.groupBy(results, dayOf)];
    const known = days.filter(([, [{ last_seen: time }]]) => time !== null);
    const unknown = days.filter((day) => !known.includes(day));
    place.replaceChildren(
      h("h3", {}, t("seen.times", { count: results.length })),
      ...[...known.reverse(), ...unknown].map(([day, visits], at) =>
        dayElement(day, visits, at === 0),
      ),
    );
  });

// The list of a day is drawn when it is opened: a person may have thousands of visits.
function dayElement(day, visits, isOpen) {
  const draw = ({ target }) => {
    if (target.open && target.children.length === 1) target.append(...lineOf(day, visits));
  };
  return h(
    "details",
    { class: "visits-of-day", open: isOpen, ontoggle: draw },
    h("summary", {}, day, " ", h("span", { class: "hint" }, t("visits", { count: visits.length }))),
  );
}

function lineOf(day, visits) {
  const rows = visits.map((visit) => row(visit));
  const marks = visits
    .filter(({ first_seen: first }) => first !== null)
    .map((visit) => ({
      id: visits.indexOf(visit),
      camera: visit.camera,
      from: Date.parse(visit.first_seen),
      until: Date.parse(visit.last_seen),
    }));
  const focus = (at) => {
    rows[at].scrollIntoView({ block: "center" });
    rows[at].focus();
  };
  return [
    timeline(marks, focus, "visit"),
    h("ol", { class: "line", "aria-label": t("line.of_day", { day }) }, rows),
  ].filter(Boolean);
}

function row(visit) {
  const { gallery, camera, crops, crop_ids: ids } = visit;
  return h(
    "li",
    { tabindex: -1 },
    gap(visit),
    h(
      "div",
      { class: "row" },
      h("b", {}, clockOf(visit)),
      camera && h("span", { class: "name" }, camera),
      h("span", { class: "hint" }, t("pictures", { count: crops })),
    ),
    h(
      "div",
      { class: "strip" },
      ids.slice(0, PICTURES).map((id, at) =>
        h(
          "button",
          {
            type: "button",
            "aria-label": t("line.picture", { number: at + 1 }),
            onclick: () => openCrop(id, stepsOf(visit)),
          },
          thumbnail(pictureOfCrop(gallery, id), ""),
        ),
      ),
      ids.length > PICTURES &&
        h("span", { class: "hint" }, t("line.more", { number: ids.length - PICTURES })),
    ),
  );
}

// Say how long after the visit before it is, and how likely both are of one person.
function gap({ gap_seconds: seconds, link_probability: probability }) {
  if (probability === undefined) return null;
  const isDated = seconds !== null && seconds !== undefined;
  const share = percent(probability);
  return h(
    "p",
    { class: probability < 0.5 ? "gap note" : "gap hint" },
    isDated
      ? t("line.alike_later", { time: apart(seconds), probability: share })
      : t("line.alike", { probability: share }),
  );
}

function apart(seconds) {
  const whole = Math.round(seconds);
  if (whole < MINUTE_S) return t("seconds", { count: whole });
  if (whole < HOUR_S) return t("minutes", { count: Math.round(whole / MINUTE_S) });
  if (whole < DAY_S) return t("hours", { count: Math.round(whole / HOUR_S) });
  return t("days", { count: Math.round(whole / DAY_S) });
}
