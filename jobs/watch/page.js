// The page of `longtake watch`: requests the progress of the take once a second, and shows it.

import {playLive} from "/live_player.js";

const MASTER = "live/master.m3u8";
const POLL_MS = 1000;
const LOG_LINES = 400;

const $ = id => document.getElementById(id);
const video = $("video");
const make = (tag, className = "", text = "") => Object.assign(document.createElement(tag), {className, textContent: text});
const part = (value, whole) => `${(100 * value / (whole || 1)).toFixed(3)}%`;

let status = null, player = null, showing = null, shownRun = 0, nextEvent = 0, resumeS = null;

// ---------------------------------------------------------------- formatting

function clock(seconds, digits = 0) {
  const unit = 10 ** digits, all = Math.floor(seconds * unit + 1e-6) / unit;
  const hours = Math.floor(all / 3600), minutes = Math.floor(all / 60) % 60;
  const rest = (all % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

function span(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
}

function work(seconds) {
  if (seconds === null) return "";
  return seconds < 0.995 ? `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms` : `${seconds.toFixed(2)} s`;
}

function words({event, time, ...fields}) {
  const [act, what] = event.split(".");
  if (what === "chunk") return ["chunk", `${act.padEnd(8)} chunk ${String(fields.chunk).padEnd(5)} ${work(fields.seconds)}`];
  if (event === "road.start") return ["", `render started: ${fields.road}, torch ${fields.torch}, ${fields.threads} thread${fields.threads > 1 ? "s" : ""}`];
  if (event === "film.start") {
    const kept = fields.kept_latents ? `; reused: ${fields.kept_latents} denoised, ${fields.kept_segments} encoded` : "";
    return ["", `film: ${fields.chunks} chunks, ${fields.frames} frames${kept}`];
  }
  if (event === "film.done") return ["good", `film complete: ${fields.url}`];
  if (event === "road.failed") return ["bad", `${fields.error}: ${fields.message}`];
  return ["", `${event} ${Object.entries(fields).map(([name, value]) => `${name}=${JSON.stringify(value)}`).join(" ")}`];
}

// ---------------------------------------------------------------- the film

function follow() {
  const {plays, runs} = status;
  if (plays && (!showing || (runs !== shownRun && plays === MASTER))) show(plays);
  $("stage").classList.toggle("empty", !showing);
  showNotice();
}

function show(name) {
  // A newer run may have replaced what is buffered; the place stays.
  const startS = resumeS ?? placeS();
  resumeS = null;
  player?.destroy();
  showing = name;
  shownRun = status.runs;
  if (name === MASTER) {
    player = playLive(video, `/take/${MASTER}`, {startS, onFailure: error => retry(String(error.message ?? error))});
  } else {
    player = null;
    video.src = `/take/${name.split("/").map(encodeURIComponent).join("/")}`;
  }
  video.play().catch(() => {});  // a browser may require a click first
}

const placeS = () => video.ended ? 0 : video.currentTime;

function retry(why) {
  console.warn(why);
  resumeS = placeS();
  showing = null;  // retried with the next status
  shownRun = 0;
}

function showNotice() {
  let text = "";
  if (!showing) {
    text = status.state === "rendering" ? "The first chunk is being rendered …" : "No chunk of this take can be played yet.";
  } else if (video.readyState < 3 && !video.ended && !video.seeking && video.currentTime > status.published_s - 2) {
    text = status.state === "rendering" ? "Rendering the next chunk …" : status.state === "done" ? "" : "The finished part ends here.";
  }
  if ($("notice").textContent !== text) $("notice").textContent = text;
}

function seek(seconds) {
  video.currentTime = Math.max(0, Math.min(seconds, status.published_s - 0.05));
}

const newest = () => seek(status.published_s - 2 * status.chunk_film_s);

function move() {
  if (!status) return;
  const now = video.currentTime;
  $("playhead").style.left = part(now, status.film_s);
  $("time").firstElementChild.textContent = clock(now, 1);
  $("timeline").ariaValueNow = now.toFixed(1);
  $("timeline").ariaValueText = clock(now, 1);
  const index = Math.max(0, status.scenes.findLastIndex(({start_s}) => start_s <= now));
  if ($("scene").dataset.index !== String(index)) {
    const {prompt, cut} = status.scenes[index];
    $("scene").dataset.index = index;
    $("scene").replaceChildren(`Scene ${index + 1} of ${status.scenes.length}${index ? cut ? ", after a cut" : ", continued" : ""}: `, make("b", "", prompt));
  }
}

function frame() {
  move();
  requestAnimationFrame(frame);
}

// ---------------------------------------------------------------- the status

function drawHead() {
  const names = {rendering: "rendering", done: "done", failed: "failed", interrupted: "interrupted", stalled: "stalled"};
  document.title = `${status.title} · ${status.state === "rendering" ? part(status.published, status.chunks).split(".")[0] + "%" : names[status.state]}`;
  $("title").textContent = status.title;
  $("about").textContent = [`${status.model} model`, status.road].filter(Boolean).join(" · ");
  state(status.state, names[status.state]);
  const troubled = !["rendering", "done"].includes(status.state);
  $("trouble").hidden = !troubled;
  $("trouble").toggleAttribute("data-mild", status.state !== "failed");
  $("trouble").replaceChildren(...status.error ? [status.error, make("span", "", status.summary)] : [status.summary]);
}

function state(name, text) {
  document.body.dataset.state = name;
  $("state").dataset.state = name;
  $("state").lastElementChild.textContent = text;
}

function figure(id, value, small = "") {
  $(id).replaceChildren(value, ...small ? [" ", make("small", "", small)] : []);
}

function drawFigures() {
  if (status.realtime === null) figure("speed", "–");
  else figure("speed", `${status.realtime.toFixed(status.realtime < 10 ? 2 : 0)}×`, "real time");
  if (status.state === "done") figure("eta", "none");
  else if (status.eta_s === null) figure("eta", "–");
  else figure("eta", span(status.eta_s));
  figure("seen", clock(status.published_s, 1), `of ${clock(status.film_s, 1)}`);
  figure("chunks", String(status.published), `of ${status.chunks}`);
  $("time").lastElementChild.textContent = `/ ${clock(status.published_s, 1)}${status.state === "done" ? "" : " so far"}`;
}

let drawnScenes = "";
function drawTimeline() {
  $("published").style.width = part(status.published_s, status.film_s);
  $("published").toggleAttribute("data-whole", status.published === status.chunks);
  $("timeline").ariaValueMax = status.film_s.toFixed(1);
  const layout = JSON.stringify(status.scenes.map(({published, ...fixed}) => fixed));
  if (layout !== drawnScenes) {
    drawnScenes = layout;
    $("track").querySelectorAll(".mark").forEach(mark => mark.remove());
    delete $("scene").dataset.index;
    $("scenes").replaceChildren(...status.scenes.map(({prompt, cut, start_s, stop_s}, index) => {
      const block = make("li", cut ? "cut" : "", prompt);
      block.style.left = part(start_s, status.film_s);
      block.style.width = part(stop_s - start_s, status.film_s);
      if (status.scenes.length <= 24) {
        const mark = make("span", cut ? "mark cut" : "mark", clock(start_s, 1) + (cut && index ? " cut" : ""));
        mark.style.left = part(start_s, status.film_s);
        $("track").append(mark);
      }
      return block;
    }));
  }
  status.scenes.forEach(({published}, index) => $("scenes").children[index].toggleAttribute("data-published", published > 0));
}

function drawActs() {
  if (!$("acts").children.length) $("acts").append(...status.acts.map(({act}) => {
    const row = make("div", "act"), bar = make("span", "bar");
    row.dataset.act = act;
    row.style.setProperty("--colour", `var(--${act})`);
    bar.append(make("i"), make("i", "was"));
    row.append(make("span", "", act), bar, make("span", "done"), make("span"), make("span"));
    return row;
  }));
  status.acts.forEach(({done, kept, median_s, last_s}, index) => {
    const row = $("acts").children[index], [, bar, count, median, last] = row.children;
    row.dataset.done = done;
    bar.firstElementChild.style.width = part(done, status.chunks);
    bar.lastElementChild.style.width = part(kept, status.chunks);
    count.textContent = `${done} / ${status.chunks}`;
    median.textContent = work(median_s);
    last.textContent = work(last_s);
  });
  const kept = Math.max(...status.acts.map(({kept}) => kept));
  $("kept").hidden = !kept;
  $("kept").textContent = `Darker: reused from an earlier render (${kept} of ${status.chunks} chunks).`;
}

let drawnChunks = "";
function drawChart() {
  const rows = new Map();
  for (const {act, chunk_s} of status.acts) {
    for (const [chunk, seconds] of chunk_s) {
      if (!rows.has(chunk)) rows.set(chunk, []);
      rows.get(chunk).push([act, seconds]);
    }
  }
  const chunks = [...rows.keys()].sort((a, b) => a - b).slice(-120), state = JSON.stringify([chunks, chunks.map(chunk => rows.get(chunk))]);
  if (state === drawnChunks) return;
  drawnChunks = state;
  const svg = $("chart").querySelector("svg"), realtime = status.chunk_film_s;
  const sums = chunks.map(chunk => rows.get(chunk).reduce((sum, [, seconds]) => sum + seconds, 0));
  const most = Math.max(...sums, 1e-6), near = realtime < 3 * most, top = 1.12 * (near ? Math.max(most, realtime) : most);
  const slots = Math.max(30, chunks.length);
  svg.setAttribute("viewBox", `0 0 ${slots} ${top}`);
  const shape = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  svg.replaceChildren(...chunks.map((chunk, slot) => {
    const bar = shape("g", {}), title = shape("title", {});
    title.textContent = `chunk ${chunk}\n${rows.get(chunk).map(([act, seconds]) => `${act} ${work(seconds)}`).join("\n")}`;
    bar.append(title);
    let y = top;
    for (const [act, seconds] of rows.get(chunk)) {
      y -= seconds;
      bar.append(shape("rect", {x: slot + 0.12, y, width: 0.76, height: seconds, fill: `var(--${act})`}));
    }
    return bar;
  }));
  if (near) svg.append(shape("line", {x1: 0, x2: slots, y1: top - realtime, y2: top - realtime}));
  $("chart-realtime").textContent = near ? "real time" : "";
  $("chart-realtime").style.top = part(top - realtime, top);
  $("chart-top").textContent = chunks.length ? `${work(most)} at most` : "no chunks yet";
  $("chart-span").textContent = chunks.length ? `work on chunks ${chunks[0]} to ${chunks.at(-1)}, by stage` : "";
}

// ---------------------------------------------------------------- the event log

function drawLog({from, next, events}) {
  const log = $("log"), atEnd = log.scrollTop + log.clientHeight > log.scrollHeight - 30;
  if (from < nextEvent) log.replaceChildren();
  nextEvent = next;
  for (const event of events) {
    const [kind, text] = words(event), line = make("li", kind);
    line.append(make("span", "", new Date(event.time).toLocaleTimeString("en-GB")), make("span", "", text));
    log.append(line);
  }
  while (log.children.length > LOG_LINES) log.firstElementChild.remove();
  if (atEnd && events.length) log.scrollTop = log.scrollHeight;
}

// ---------------------------------------------------------------- once a second

async function ask(url) {
  const answer = await fetch(url, {cache: "no-store"}), body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body;
}

async function update() {
  try {
    const [now, events] = await Promise.all([ask("/status.json"), ask(`/events?from=${nextEvent}`)]);
    status = now;
    for (const draw of [drawHead, drawFigures, drawTimeline, drawActs, drawChart, follow]) draw();
    drawLog(events);
  } catch (error) {
    state("unreachable", "unreachable");
    $("trouble").hidden = false;
    $("trouble").textContent = error instanceof TypeError
      ? "longtake watch no longer answers; start it again in a terminal. The render itself does not depend on it."
      : error.message;
  }
  setTimeout(update, POLL_MS);
}

// ---------------------------------------------------------------- controls

const playOrPause = () => video.paused ? video.play().catch(() => {}) : video.pause();
const mute = () => { video.muted = !video.muted; };
const full = () => document.fullscreenElement ? document.exitFullscreen() : $("stage").requestFullscreen();
const keys = {" ": playOrPause, k: playOrPause, m: mute, f: full, End: newest, Home: () => seek(0),
  ArrowLeft: () => seek(video.currentTime - 2), ArrowRight: () => seek(video.currentTime + 2)};

video.muted = true;  // otherwise browsers do not start it automatically
for (const type of ["play", "pause", "volumechange", "ended"]) video.addEventListener(type, reflect);
for (const type of ["waiting", "playing", "seeked", "timeupdate"]) video.addEventListener(type, () => status && showNotice());
video.addEventListener("error", () => showing && retry(`the film cannot be played: ${video.error.message}`));
video.addEventListener("click", playOrPause);
$("play").addEventListener("click", playOrPause);
$("mute").addEventListener("click", mute);
$("full").addEventListener("click", full);
$("newest").addEventListener("click", newest);
document.addEventListener("keydown", event => {
  const act = keys[event.key];
  if (!act || !status || event.ctrlKey || event.metaKey || event.altKey || (event.key === " " && event.target.tagName === "BUTTON")) return;
  event.preventDefault();
  act();
});

const seekTo = event => {
  const {left, width} = $("track").getBoundingClientRect();
  if (status) seek((event.clientX - left) / width * status.film_s);
};
$("timeline").addEventListener("pointerdown", event => { $("timeline").setPointerCapture(event.pointerId); seekTo(event); });
$("timeline").addEventListener("pointermove", event => { if (event.buttons) seekTo(event); });

function reflect() {
  document.body.classList.toggle("playing", !video.paused && !video.ended);
  document.body.classList.toggle("muted", video.muted);
}

reflect();
update();
frame();
