// The sentences of a forecast, from its figures.

import { inNumbers, LOCALE, t } from "./texts.js";

const SHARES = new Intl.NumberFormat(LOCALE, { style: "percent" });
// A higher bound on the share that is found says nothing.
export const HIGHEST_BOUND = 0.99;

// Return the ending of the text that says a number of false alarms, and its values.
export function alarms(number) {
  const whole = Math.floor(number);
  const rest = number - whole;
  if (number < 0.5) return ["few"];
  if (whole < 10 && rest >= 0.3 && rest < 0.7) return ["range", { from: whole, to: whole + 1 }];
  return ["number", { count: Math.round(number) }];
}

// Return what a forecast says: first its false alarms, then whom it finds, then both without the
// silent people.
export function sentencesOf(forecast) {
  const { promised, tracks_per_day: tracks, without_silent: without } = forecast;
  // Silent people lower the false alarms, and not the limit below which none can be promised.
  const least = tracks / (without ?? forecast).false_alarms;
  const said = (figures) => [alarmed(figures, promised, least), found(figures)];
  if (without === null) return said(forecast);
  return [...said(forecast), t("forecast.without_silent", { figures: said(without).join(" ") })];
}

function alarmed({ false_alarms: number, low, high }, promised, least) {
  if (number === null) return t("forecast.alarms.unknown");
  const limits = { low: inNumbers(low), high: inNumbers(high) };
  if (!promised)
    return t("forecast.alarms.unlimited", { ...limits, tracks: inNumbers(Math.round(least)) });
  const [ending, values] = alarms(number);
  return t(`forecast.alarms.${ending}`, { ...values, ...limits });
}

function found({ found: share, found_low: low, found_high: high }) {
  if (share !== null) {
    const [middle, least, most] = [share, low, high].map((part) => SHARES.format(part));
    return t("forecast.found", { share: middle, low: least, high: most });
  }
  if (high === null) return t("forecast.found.one_picture");
  return high > HIGHEST_BOUND
    ? t("forecast.found.unknown")
    : t("forecast.found.at_most", { share: SHARES.format(high) });
}

// Say which data a forecast rests on.
export function sourcesOf({ basis, traffic_tracks: tracks, own_tracks: own }) {
  if (basis === "artefact" || basis === "list") return t(`forecast.rests.${basis}`);
  if (tracks === 0) return t("forecast.rests.no_tracks");
  return own === tracks
    ? t("forecast.rests.own_tracks", { count: tracks })
    : t("forecast.rests.other_tracks", {
        count: tracks,
        own: inNumbers(own),
        others: inNumbers(tracks - own),
      });
}
