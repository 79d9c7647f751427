// Plays a film that is still being rendered: a growing HLS playlist (fMP4, picture and sound separate) through Media
// Source Extensions. Native HLS players skip segments of a playlist that grows faster than it plays, or are missing.
//
// Only a window around the playhead is buffered, so that an hour takes no more memory than a minute; seeking fetches
// what it needs. A segment that a newer playlist replaces is fetched again.

const AHEAD_S = 30;
const BEHIND_S = 15;

const once = (target, type) => new Promise(resolve => target.addEventListener(type, resolve, {once: true}));

async function get(url, signal) {
  const answer = await fetch(url, {signal, cache: "no-store"});
  if (!answer.ok) throw new Error(`${url} answered ${answer.status}`);
  return answer;
}

export function parsePlaylist(text) {
  const segments = [];
  let header = null, length = 0, stop = 0;
  for (const line of text.split("\n")) {
    if (line.startsWith("#EXT-X-MAP:")) header = line.match(/URI="(.+?)"/)[1];
    else if (line.startsWith("#EXTINF:")) length = parseFloat(line.slice(8));
    else if (line && !line.startsWith("#")) segments.push({uri: line, start: stop, stop: stop += length});
  }
  return {header, segments, ended: text.includes("#EXT-X-ENDLIST")};
}

class Rendition {
  constructor(name, url, buffer, signal) {
    Object.assign(this, {name, url, buffer, signal, shown: new Map(), appendedHeader: null, ahead: AHEAD_S});
    this.list = {header: null, segments: [], ended: false};
  }

  get ranges() {
    const {buffered} = this.buffer;
    return Array.from({length: buffered.length}, (_, i) => [buffered.start(i), buffered.end(i)]);
  }

  get stop() { return this.list.segments.at(-1)?.stop ?? 0; }

  async refresh() {
    if (!this.list.ended) this.list = parsePlaylist(await (await get(this.url, this.signal)).text());
  }

  // Checks the buffer, not a list of appended segments: a browser that is short of memory drops any of them.
  missing(index) {
    const {uri, start, stop} = this.list.segments[index], middle = (start + stop) / 2;
    return this.shown.get(index) !== uri || !this.ranges.some(([from, to]) => from <= middle && middle < to);
  }

  get whole() { return this.list.ended && !this.missing(this.list.segments.length - 1); }

  async fill(playhead) {
    const {segments} = this.list, reach = playhead() + this.ahead;
    for (let i = segments.findIndex(({stop}) => stop > playhead()); i >= 0 && i < segments.length; i++) {
      // After a seek, segments that were needed before no longer are.
      if (segments[i].start > reach || segments[i].start > playhead() + this.ahead) break;
      if (segments[i].stop > playhead() && this.missing(i)) await this.append(i, playhead);
    }
    await this.evict(playhead());
  }

  async append(index, playhead) {
    const {list} = this, {uri} = list.segments[index];
    if (list.header !== this.appendedHeader) {
      await this.put(list.header);
      this.appendedHeader = list.header;
    }
    try {
      await this.put(uri);
      this.shown.set(index, uri);
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      this.ahead = Math.max(2, this.ahead / 2);
      await this.evict(playhead());
    }
  }

  async put(uri) {
    const data = await (await get(new URL(uri, this.url), this.signal)).arrayBuffer();
    this.signal.throwIfAborted();
    this.buffer.appendBuffer(data);
    await once(this.buffer, "updateend");
  }

  async evict(playhead) {
    for (const [index, {start, stop}] of this.list.segments.entries()) {
      const far = stop < playhead - BEHIND_S || start > playhead + this.ahead + BEHIND_S;
      if (!far || !this.shown.delete(index)) continue;
      this.buffer.remove(Math.max(0, start - 0.001), stop - 0.005);  // playlists round times; keep the next segment's key frame
      await once(this.buffer, "updateend");
    }
  }
}

export class LivePlayer {
  // `url` is the master playlist, which must exist. `onFailure(error)` is called once; the player has stopped then.
  constructor(video, url, {pollMs = 500, onFailure = console.error} = {}) {
    this.video = video;
    this.url = new URL(url, location.href);
    this.pollMs = pollMs;
    this.stopping = new AbortController();
    this.renditions = [];
    this.run().catch(error => { if (!this.stopping.signal.aborted) onFailure(error); });
  }

  get publishedS() { return this.renditions[0]?.stop ?? 0; }

  get ranges() { return Object.fromEntries(this.renditions.map(({name, ranges}) => [name, ranges])); }

  stop() {
    this.stopping.abort();
    URL.revokeObjectURL(this.objectUrl);
  }

  async run() {
    const {signal} = this.stopping, master = await (await get(this.url, signal)).text();
    const [picture, sound] = master.match(/CODECS="(.+?)"/)[1].split(",");
    this.source = new MediaSource();
    this.video.src = this.objectUrl = URL.createObjectURL(this.source);
    await once(this.source, "sourceopen");
    signal.throwIfAborted();
    this.source.duration = Infinity;
    const add = (name, type, codec) => this.renditions.push(new Rendition(
      name, new URL(`${name}.m3u8`, this.url), this.source.addSourceBuffer(`${type}; codecs="${codec}"`), signal));
    add("video", "video/mp4", picture);
    if (sound) add("audio", "audio/mp4", sound);
    while (!signal.aborted) {
      await Promise.all(this.renditions.map(rendition => this.advance(rendition)));
      this.setExtent();
      await this.pause();
    }
  }

  async advance(rendition) {
    await rendition.refresh();
    await rendition.fill(() => this.video.currentTime);
  }

  setExtent() {
    if (this.source.readyState !== "open") return;
    if (this.renditions.every(({whole}) => whole)) this.source.endOfStream();
    else if (this.source.duration === Infinity && this.publishedS) this.source.setLiveSeekableRange(0, this.publishedS);
  }

  async pause() {
    let timer;
    const seeked = new AbortController();
    await Promise.race([
      new Promise(resolve => { timer = setTimeout(resolve, this.pollMs); }),
      new Promise(resolve => this.video.addEventListener("seeking", resolve, {once: true, signal: seeked.signal})),
    ]);
    clearTimeout(timer);
    seeked.abort();
  }
}
