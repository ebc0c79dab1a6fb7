// The trials of a watch list: how far each camera is.

import { count, h, moment } from "./elements.js";

const cameraOf = ({ camera }) => camera ?? "an unnamed camera";

// Return the trials of an armed list as elements; none for a list without trials.
export function describeTrials({ trials, trial_until: until }) {
  if (!until) return [];
  const running = trials.filter((trial) => !trial.ended_at);
  const over = trials.filter((trial) => trial.ended_at);
  const isOver = new Date(until) <= new Date();
  const isOnTrial = running.length > 0 || (trials.length === 0 && !isOver);
  return [
    isOnTrial && h("p", { class: "hint" }, ...explained(until)),
    trials.length > 0 &&
      h(
        "ul",
        { class: "trials" },
        running.map((trial) => h("li", {}, progressOf(trial, trials))),
        over.map((trial) => h("li", {}, ...endOf(trial, trials))),
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
  const tracks = `${Math.min(trial.tracks, trial.tracks_needed)} of ${trial.tracks_needed} tracks`;
  return `Trial at ${nameOf(trial, trials)}: ${tracks}, ${count(trial.unreviewed, "alert")} to review.`;
}

function endOf(trial, trials) {
  const how = trial.timed_out ? "ended by itself" : "ended";
  return [`Trial at ${nameOf(trial, trials)}: ${how} `, moment(trial.ended_at), "."];
}
