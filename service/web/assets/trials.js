// The trials of a watch list: how far each camera is.

import { h, moment } from "./elements.js";
import { t, textNodes } from "./texts.js";

const cameraOf = ({ camera }) => camera ?? t("camera.unnamed");

// Return the trials of an armed list as elements.
export function describeTrials({ trials, trial_until: longest, settings }) {
  // No trial outlasts its list.
  const ends = settings.expires_at;
  const until = Date.parse(longest) < Date.parse(ends) ? longest : ends;
  const running = trials.filter((trial) => !trial.is_over);
  const over = trials.filter((trial) => trial.is_over);
  const hasTimedOut = new Date(until) <= new Date();
  const isOnTrial = running.length > 0 || (trials.length === 0 && !hasTimedOut);
  return [
    isOnTrial && h("p", { class: "hint" }, textNodes("trials.about", { time: moment(until) })),
    trials.length > 0 &&
      h(
        "ul",
        { class: "trials" },
        [...running, ...over].map((trial) => h("li", {}, progressOf(trial, trials))),
      ),
  ];
}

// Name a camera, and its key where several keys have a camera of that name.
function nameOf(trial, trials) {
  const isAlone = trials.filter(({ camera }) => camera === trial.camera).length === 1;
  return isAlone
    ? cameraOf(trial)
    : t("trials.camera", { camera: cameraOf(trial), key: trial.key_id });
}

function progressOf(trial, trials) {
  const camera = nameOf(trial, trials);
  if (trial.is_over) return t("trials.over", { camera });
  return t("trials.running", {
    camera,
    done: Math.min(trial.tracks, trial.tracks_needed),
    needed: trial.tracks_needed,
    count: trial.unreviewed,
  });
}
