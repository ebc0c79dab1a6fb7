// Why tracks raised no alert of a list: “Why not?”, read when it is unfolded.

import { ask } from "./api.js";
import { attempt, decimal, h, moment, percent } from "./elements.js";
import { inGallery } from "./place.js";
import { hasText, t, textNodes } from "./texts.js";

// A smaller difference of scores would read 0.00.
const LEAST_MARGIN = 0.005;

export function explained() {
  const place = h("div");
  return h(
    "details",
    { class: "passages", ontoggle: ({ target }) => target.open && show(place) },
    h("summary", {}, t("passages")),
    h("p", { class: "hint" }, t("passages.hint")),
    place,
  );
}

const show = (place) =>
  attempt(place, async () => {
    const { results } = await ask(inGallery("/watch/passages"));
    place.replaceChildren(
      results.length > 0
        ? h("ul", { class: "rows", "aria-label": t("passages") }, results.map(row))
        : h("p", { class: "hint" }, t("passages.none")),
    );
  });

function row(passage) {
  const { captured_at: time, camera, zone, track } = passage;
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      h("b", { class: "name" }, camera ?? t("camera.unnamed")),
      ", ",
      moment(time),
      h("p", { class: "name" }, reasons(passage).join("; ")),
      h("p", { class: "hint name" }, textNodes("passages.scores", scores(passage))),
      zone !== null && h("p", { class: "hint name" }, t("passages.zone", { zone })),
      track !== null && h("p", { class: "hint name" }, t("passages.track", { track })),
    ),
  );
}

const scores = ({ score, threshold }) => ({
  score: decimal(score, 2),
  threshold: decimal(threshold, 2),
});

function reasons({ margin, probability, height, faults }) {
  const number = decimal(Math.max(Math.abs(margin), LEAST_MARGIN), 2);
  return [
    probability === null
      ? t("passages.below", { number })
      : t("passages.unlikely", { number, share: percent(probability, true) }),
    height !== null && t("passages.height", { count: height }),
    ...faults.map((fault) =>
      hasText(`passages.fault.${fault}`) ? t(`passages.fault.${fault}`) : fault,
    ),
  ].filter(Boolean);
}
