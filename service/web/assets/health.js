// The cameras that send to the service: when each was heard, and in which state it is.

import { hasKey, pages } from "./api.js";
import { ago, attempt, count, decimal, find, h } from "./elements.js";
import { panel } from "./place.js";

const MOST_SHOWN = 1000;
const AGAIN_MS = 30_000;
const NOT_OF_OTHERS =
  "Only the cameras of this page’s own key are shown. One that may do everything (admin) shows all.";
let seesAll = false;

export function startHealth() {
  setInterval(() => {
    if (panel() === "watch" && !document.hidden) showCameras(seesAll);
  }, AGAIN_MS);
}

// Show the cameras that the key may see; `all` says that these are those of every key.
export async function showCameras(all) {
  seesAll = all;
  const place = find("#health");
  await attempt(place, async () => {
    const { results } = await pages("/v1/cameras", {}, MOST_SHOWN);
    results.sort(byUrgency);
    place.querySelector("ul").replaceChildren(...results.map((camera) => row(camera, results)));
    const silent = results.filter((camera) => camera.silent).length;
    place.querySelector("summary").textContent =
      silent > 0 ? `Cameras (${silent} silent)` : "Cameras";
    find("#health-none").hidden = results.length > 0;
    find("#health-how").hidden = results.some(({ heartbeat }) => heartbeat !== null);
    find("#health-call").textContent = call();
    find("#health-others").textContent = all ? "" : NOT_OF_OTHERS;
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
    [silent ? "Silent, last heard " : "Heard ", ago(camera.last_heard_at)],
    heartbeat === null ? "no heartbeats" : !silent && wordsOf(heartbeat.state),
    !silent && heartbeat?.fps != null && `${decimal(heartbeat.fps, 1)} frames a second`,
    !silent && heartbeat?.lag != null && `${decimal(heartbeat.lag, 1)} s behind`,
    isFast(camera) && `clock ${minutes(camera.clock_ahead)} fast: set it right`,
    isSlow(camera) &&
      `pictures arrive ${minutes(-camera.clock_ahead)} late, so nobody is told: its clock is slow, or it sends late`,
    `${count(camera.crops, "picture")} and ${count(camera.tracks, "passage")} in a day`,
    camera.refused > 0 && `${count(camera.refused, "picture")} refused`,
    isAmbiguous && `key ${key}`,
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
        name ?? "without a name",
      ),
      h("p", { class: "hint name" }, about.flat()),
    ),
  );
}

const minutes = (seconds) => `${Math.round(seconds / 60).toLocaleString()} min`;
const wordsOf = (state) => state.replaceAll("_", " ");

function call() {
  const address = `${location.origin}/v1/cameras/gate/heartbeat`;
  return [
    `curl '${address}'`,
    hasKey() && "-H 'Authorization: Bearer THE-KEY-OF-THE-CAMERA'",
    "-F state=ok -F fps=10 -F lag=0.2",
  ]
    .filter(Boolean)
    .join(" \\\n  ");
}
