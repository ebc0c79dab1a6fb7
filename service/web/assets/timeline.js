// Crops or visits by time, in a lane for each camera. A list beside it serves keyboards and screen
// readers.

import { nfc } from "./elements.js";
import { LOCALE, t } from "./texts.js";

const LANE = 40;
const HEAD = 8;
const FOOT = 30;
const EDGE = 2;
const DAY_MS = 864e5;

// Return the marks of crops that have a time.
export const marksOf = (crops) =>
  crops
    .filter((crop) => crop.captured_at !== null)
    .map(({ crop_id: id, camera, captured_at: text }) => {
      const at = Date.parse(text);
      return { id, camera, from: at, until: at };
    });

// Return null for fewer than two marks. A mark is {id, camera, from, until}; `choose` gets the id of
// the one that is pressed, and `kind` is what they are: "picture" or "visit".
export function timeline(marks, choose, kind) {
  if (marks.length < 2) return null;
  const seen = marks.map((mark) => ({ ...mark, camera: nfc(mark.camera) }));
  const lanes = [...new Set(seen.map((mark) => mark.camera))].sort((first, second) =>
    (first ?? "").localeCompare(second ?? "", undefined, { numeric: true }),
  );
  const from = Math.min(...seen.map((mark) => mark.from));
  const until = Math.max(...seen.map((mark) => mark.until));
  const x = (at) =>
    `${EDGE + (100 - 2 * EDGE) * (until > from ? (at - from) / (until - from) : 0.5)}%`;
  const y = (camera) => HEAD + LANE * lanes.indexOf(camera) + LANE - 10;
  const height = HEAD + LANE * lanes.length + FOOT;
  const words = lanes.map((lane) =>
    t(`timeline.lane.${kind}`, {
      camera: lane ?? t("camera.unknown"),
      count: seen.filter((mark) => mark.camera === lane).length,
    }),
  );
  return s(
    "svg",
    {
      class: "timeline",
      width: "100%",
      height,
      role: "img",
      "aria-label": t(`timeline.${kind}`, { lanes: words.join(", ") }),
    },
    ...lanes.flatMap((lane) => [
      s("line", { class: "lane", x1: "0", x2: "100%", y1: y(lane), y2: y(lane) }),
      s("text", { class: "name", x: "0", y: y(lane) - 16 }, lane ?? t("camera.unknown")),
    ]),
    ...seen.slice(1).map((mark, at) =>
      s("line", {
        class: "way",
        x1: x(seen[at].until),
        y1: y(seen[at].camera),
        x2: x(mark.from),
        y2: y(mark.camera),
      }),
    ),
    ...seen.map((mark) => shape(mark, x, y(mark.camera), choose)),
    ...ticks(from, until).map(([at, anchor]) =>
      s("text", { x: x(at), y: height - 9, "text-anchor": anchor }, label(at, until - from)),
    ),
  );
}

// A moment is a dot, and a longer time a bar with round ends.
function shape(mark, x, y, choose) {
  const { id, camera, from, until } = mark;
  const ends = from === until ? [from] : [from, until];
  const time = ends.map((at) => new Date(at).toLocaleString(LOCALE)).join(" – ");
  const words = t("timeline.mark", { camera: camera ?? t("camera.unknown"), time });
  const title = s("title", {}, words);
  const drawn =
    from === until
      ? s("circle", { cx: x(from), cy: y, r: 7 }, title)
      : s("line", { class: "stay", x1: x(from), x2: x(until), y1: y, y2: y }, title);
  drawn.addEventListener("click", () => choose(id));
  return drawn;
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
    LOCALE,
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
