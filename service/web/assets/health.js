// The cameras that send to the service: when each was heard, and in which state it is.

import { hasKey, pages } from "./api.js";
import { showCameraForm } from "./camera_form.js";
import { ago, attempt, decimal, find, h, keptFor } from "./elements.js";
import { hasText, t, textNodes } from "./texts.js";
import { showZones } from "./zones.js";

const MOST_SHOWN = 1000;
let seesAll = false;
let galleries = [];
let passages = 0;

// Return how many passages the cameras of the panel have counted in the last day.
export const passagesOfDay = () => passages;

export function startHealth() {
  document.addEventListener("galleries-read", ({ detail }) => {
    galleries = detail;
  });
  find("#new-camera").addEventListener("click", () =>
    // What cameras see is stored only where pictures are deleted.
    showCameraForm(galleries.filter((gallery) => keptFor(gallery)).map(({ name }) => name)),
  );
}

// Show the cameras that the key may see; `all` says that these are those of every key.
export async function showCameras(all) {
  seesAll = all;
  const place = find("#health");
  await attempt(place, async () => {
    const { results } = await pages("/v1/cameras", {}, MOST_SHOWN);
    results.sort(byUrgency);
    passages = results.reduce((sum, { tracks }) => sum + tracks, 0);
    const focused = document.activeElement?.dataset.zones;
    place.querySelector("ul").replaceChildren(...results.map((camera) => row(camera, results)));
    if (focused) place.querySelector(`[data-zones="${CSS.escape(focused)}"]`)?.focus();
    const silent = results.filter((camera) => camera.silent).length;
    place.querySelector("summary").textContent =
      silent > 0 ? t("health.silent", { number: silent }) : t("cameras");
    find("#health-none").hidden = results.length > 0;
    // How a program reports is of use to those who set cameras up.
    find("#health-how").hidden = !all || results.some(({ heartbeat }) => heartbeat !== null);
    find("#health-call").textContent = call();
    find("#health-others").textContent = all ? "" : t("health.not_of_others");
  });
}

// The service warns of a time that is ahead by more, and calls an alert late that is behind by more.
const MOST_AHEAD_S = 60;
const MOST_BEHIND_S = 600;
const isFast = (camera) => camera.clock_ahead > MOST_AHEAD_S;
const isSlow = (camera) => camera.clock_ahead !== null && camera.clock_ahead < -MOST_BEHIND_S;
const isInTrouble = (camera) =>
  (camera.heartbeat !== null && camera.heartbeat.state !== "ok") ||
  isFast(camera) ||
  isSlow(camera);
const rank = (camera) => (camera.silent ? 0 : isInTrouble(camera) ? 1 : 2);

function byUrgency(first, second) {
  const names = [first, second].map(({ camera }) => camera ?? "");
  return (
    rank(first) - rank(second) || names[0].localeCompare(names[1], undefined, { numeric: true })
  );
}

function row(camera, all) {
  const { camera: name, key_id: key, heartbeat, silent } = camera;
  const isAmbiguous = all.filter((other) => other.camera === name).length > 1;
  const about = [
    textNodes(silent ? "health.last_heard" : "health.heard", { time: ago(camera.last_heard_at) }),
    heartbeat === null ? t("health.no_heartbeats") : !silent && wordsOf(heartbeat.state),
    !silent && heartbeat?.fps != null && t("health.fps", { number: decimal(heartbeat.fps, 1) }),
    !silent && heartbeat?.lag != null && t("health.lag", { seconds: decimal(heartbeat.lag, 1) }),
    isFast(camera) && t("health.clock_fast", { minutes: minutes(camera.clock_ahead) }),
    isSlow(camera) && t("health.late", { minutes: minutes(-camera.clock_ahead) }),
    t("health.day", {
      pictures: t("pictures", { count: camera.crops }),
      count: camera.tracks,
    }),
    camera.zones.length > 0 && t("health.zones", { count: camera.zones.length }),
    camera.refused > 0 && t("health.refused", { count: camera.refused }),
    isAmbiguous && t("health.key", { key }),
  ]
    .filter(Boolean)
    .flatMap((part, number) => (number > 0 ? [" · ", part] : [part]));
  const isWell = !silent && !isInTrouble(camera);
  return h(
    "li",
    {},
    h(
      "div",
      { class: "grow" },
      h(
        "b",
        { class: heartbeat === null && isWell ? "name" : `name dot ${isWell ? "ready" : ""}` },
        name ?? t("health.without_name"),
      ),
      h("p", { class: "hint name" }, about.flat()),
    ),
    seesAll &&
      name !== null &&
      heartbeat !== null &&
      h(
        "button",
        {
          type: "button",
          "data-zones": `${key} ${name}`,
          "aria-label": t("zones.open_of", { camera: name }),
          onclick: () => showZones(camera, () => showCameras(seesAll)),
        },
        t("zones.open"),
      ),
  );
}

const minutes = (seconds) => Math.round(seconds / 60);
// A program may say what is wrong in words of its own.
const wordsOf = (state) =>
  hasText(`health.state.${state}`) ? t(`health.state.${state}`) : state.replaceAll("_", " ");

function call() {
  const address = `${location.origin}/v1/cameras/gate/heartbeat`;
  return [
    `curl '${address}'`,
    hasKey() && `-H 'Authorization: Bearer ${t("key.stand_in")}'`,
    "-F state=ok -F fps=10 -F lag=0.2",
  ]
    .filter(Boolean)
    .join(" \\\n  ");
}
