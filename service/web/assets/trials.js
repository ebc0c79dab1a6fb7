// The trials of a watch list: how far each camera is.

import { count, h, moment } from "./elements.js";

const cameraOf = ({ camera }) => camera ?? "an unnamed camera";

// Return the trials of an armed list as elements.
export function describeTrials({ trials, trial_until: until }) {
  const running = trials.filter((trial) => !trial.is_over);
  const over = trials.filter((trial) => trial.is_over);
  const hasTimedOut = new Date(until) <= new Date();
  const isOnTrial = running.length > 0 || (trials.length === 0 && !hasTimedOut);
  return [
    isOnTrial && h("p", { class: "hint" }, ...explained(until)),
    trials.length > 0 &&
      h(
        "ul",
        { class: "trials" },
        [...running, ...over].map((trial) => h("li", {}, progressOf(trial, trials))),
      ),
  ];
}

const explained = (until) => [
  "On trial, the alerts of a camera show what the forecast is worth there: until 200 tracks passed it and its first 20 alerts are decided, or until ",
  moment(until),
  ".",
];

// Name a camera, and its key where several keys have a camera of that name.
function nameOf(trial, trials) {
  const isAlone = trials.filter(({ camera }) => camera === trial.camera).length === 1;
  return isAlone ? cameraOf(trial) : `${cameraOf(trial)} (key ${trial.key_id})`;
}

function progressOf(trial, trials) {
  const name = nameOf(trial, trials);
  if (trial.is_over) return `Trial at ${name}: over.`;
  const tracks = `${Math.min(trial.tracks, trial.tracks_needed)} of ${trial.tracks_needed} tracks`;
  return `Trial at ${name}: ${tracks}, ${count(trial.unreviewed, "alert")} to review.`;
}
