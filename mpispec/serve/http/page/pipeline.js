// The pipeline while it works: readings of GET /stats, a second apart, and what happened between them.

import { getJson } from "./api.js";
import { byId, el } from "./dom.js";
import { bars, line } from "./plot.js";

const EVERY_MS = 1000;
const KEPT = 60;
/** Readings that are drawn. */
const RECENT = 10;
/** Readings over which the acceptance rate is taken. */

function percent(share) {
  return share === null || Number.isNaN(share) ? "–" : `${Math.round(share * 100)} %`;
}

function layersOf(place) {
  return place.layers.map(([first, last]) => (first === last ? `layer ${first}` : `layers ${first}–${last}`)).join(", ");
}

export class Pipeline {
  /** `told(failure)` hears after each reading what went wrong, or null. */
  constructor(told) {
    this.told = told;
    this.panel = byId("pipeline");
    this.readings = [];
    this.speeds = [];
    this.shares = new Map();
    this.timer = null;
    document.addEventListener("visibilitychange", () => this.look());
  }

  get isWanted() {
    return document.visibilityState === "visible" && this.isOpen;
  }

  /** Note whether the panel is open: only then the server is asked. */
  open(isOpen) {
    this.isOpen = isOpen;
    this.look();
  }

  look() {
    if (this.isWanted && this.timer === null) {
      this.readings = []; // what happened while nobody looked is no second
      this.tick();
    }
  }

  async tick() {
    this.timer = 0;
    let failure = null;
    try {
      const stats = await getJson("/stats");
      if (this.isOpen) this.take(stats, performance.now() / 1000);
    } catch (error) {
      failure = error;
      this.readings = [];
    }
    this.told(failure);
    this.timer = this.isWanted ? setTimeout(() => this.tick(), EVERY_MS) : null;
  }

  /** Take a reading at a time in seconds. */
  take(stats, when) {
    this.readings.push({ stats, when });
    this.readings.splice(0, this.readings.length - RECENT - 1);
    const [before, now] = this.readings.slice(-2);
    if (now) {
      const seconds = now.when - before.when;
      this.keep(this.speeds, Math.max(0, now.stats.tokens - before.stats.tokens) / seconds);
      this.takeShares(before, now, seconds);
    }
    this.draw(stats);
  }

  takeShares(before, now, seconds) {
    const earlier = new Map(before.stats.ranks.map(({ rank, busy_s: busy }) => [rank, busy]));
    for (const { rank, busy_s: busy } of now.stats.ranks) {
      if (!earlier.has(rank)) continue;
      if (!this.shares.has(rank)) this.shares.set(rank, []);
      this.keep(this.shares.get(rank), Math.min(1, Math.max(0, (busy - earlier.get(rank)) / seconds)));
    }
  }

  keep(values, value) {
    values.push(value);
    values.splice(0, values.length - KEPT);
  }

  /** Return the acceptance rate of late, or null where nothing was verified. */
  recentAcceptance() {
    const [first, last] = [this.readings[0].stats, this.readings.at(-1).stats];
    const verified = last.verified - first.verified;
    return verified > 0 ? (last.accepted - first.accepted) / verified : null;
  }

  draw(stats) {
    const speed = this.speeds.at(-1) ?? 0;
    const now = stats.now ?? {};
    const figures = [
      ["tokens/s", speed.toFixed(1), "of all answers, in the last second"],
      ["drafts right", percent(this.recentAcceptance() ?? stats.acceptance_rate), `since the start: ${percent(stats.acceptance_rate)}`],
      ["rows in flight", now.rows_in_flight ?? 0, `in ${now.runs_in_flight ?? 0} runs`],
      ["answers open", stats.open ?? 0, `${stats.ended ?? 0} have ended`],
    ];
    const tiles = figures.map(([name, value, title]) =>
      el("div", { className: "tile", title }, el("strong", {}, String(value)), el("span", {}, name)),
    );
    byId("figures").replaceChildren(...tiles);
    const most = Math.max(0, ...this.speeds).toFixed(0);
    byId("speed-most").textContent = `up to ${most}`;
    byId("speed-plot").replaceChildren(line(this.speeds, KEPT, `Tokens a second over the last minute, ${most} at most`));
    byId("ranks").replaceChildren(...stats.ranks.map((place) => this.rank({ host: "", roles: [], layers: [], ...place })));
  }

  rank(place) {
    const shares = this.shares.get(place.rank) ?? [];
    const recent = shares.slice(-3);
    const share = recent.length ? recent.reduce((sum, each) => sum + each, 0) / recent.length : null;
    const what = [place.roles.join(" + "), layersOf(place)].filter(Boolean).join(" · ");
    return el(
      "li",
      { className: "rank" },
      el("div", { className: "rank-head" }, el("strong", {}, `${place.rank}`), el("span", { className: "host" }, place.host), el("span", { className: "share" }, percent(share))),
      el("p", { className: "hint" }, what),
      bars(shares, KEPT, `Rank ${place.rank} has computed ${percent(share)} of the time`),
    );
  }
}
