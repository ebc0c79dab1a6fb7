// Crops by time, in a lane for each camera. A list beside it serves keyboards and screen readers.

import { count, nfc } from "./elements.js";

const LANE = 40;
const HEAD = 8;
const FOOT = 30;
const EDGE = 2;
const DAY_MS = 864e5;

// Return null if fewer than two crops have a time.
export function timeline(crops, choose) {
  const seen = crops
    .filter((crop) => crop.captured_at !== null)
    .map((crop) => ({ ...crop, camera: nfc(crop.camera), at: Date.parse(crop.captured_at) }));
  if (seen.length < 2) return null;
  const lanes = [...new Set(seen.map((crop) => crop.camera))].sort((first, second) =>
    (first ?? "").localeCompare(second ?? "", undefined, { numeric: true }),
  );
  const from = Math.min(...seen.map((crop) => crop.at));
  const until = Math.max(...seen.map((crop) => crop.at));
  const x = (at) =>
    `${EDGE + (100 - 2 * EDGE) * (until > from ? (at - from) / (until - from) : 0.5)}%`;
  const y = (camera) => HEAD + LANE * lanes.indexOf(camera) + LANE - 10;
  const height = HEAD + LANE * lanes.length + FOOT;
  const words = lanes.map(
    (lane) =>
      `${lane ?? "camera unknown"}: ${count(seen.filter((crop) => crop.camera === lane).length, "picture")}`,
  );
  return s(
    "svg",
    {
      class: "timeline",
      width: "100%",
      height,
      role: "img",
      "aria-label": `Pictures by time and camera. ${words.join(", ")}.`,
    },
    ...lanes.flatMap((lane) => [
      s("line", { class: "lane", x1: "0", x2: "100%", y1: y(lane), y2: y(lane) }),
      s("text", { x: "0", y: y(lane) - 16 }, lane ?? "camera unknown"),
    ]),
    ...seen.slice(1).map((crop, at) =>
      s("line", {
        class: "way",
        x1: x(seen[at].at),
        y1: y(seen[at].camera),
        x2: x(crop.at),
        y2: y(crop.camera),
      }),
    ),
    ...seen.map((crop) => dot(crop, x(crop.at), y(crop.camera), choose)),
    ...ticks(from, until).map(([at, anchor]) =>
      s("text", { x: x(at), y: height - 9, "text-anchor": anchor }, label(at, until - from)),
    ),
  );
}

function dot(crop, cx, cy, choose) {
  const circle = s(
    "circle",
    { cx, cy, r: 7 },
    s("title", {}, `${crop.camera ?? "camera unknown"}, ${new Date(crop.at).toLocaleString()}`),
  );
  circle.addEventListener("click", () => choose(crop.crop_id));
  return circle;
}

const ticks = (from, until) =>
  until > from
    ? [
        [from, "start"],
        [(from + until) / 2, "middle"],
        [until, "end"],
      ]
    : [[from, "middle"]];

function label(at, span) {
  const time = { hour: "numeric", minute: "2-digit" };
  const day = { month: "short", day: "numeric" };
  return new Intl.DateTimeFormat(
    undefined,
    span < DAY_MS / 2
      ? { ...day, ...time }
      : span < 7 * DAY_MS
        ? { ...day, hour: "numeric" }
        : { year: "numeric", ...day },
  ).format(at);
}

function s(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
