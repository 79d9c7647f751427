// Plays a film that is still being rendered, with hls.js: native HLS players skip segments of a playlist that grows
// faster than it plays, or are missing.
//
// Only a window around the playhead is buffered, so that an hour takes no more memory than a minute.

import Hls from "/hls.mjs";

const AHEAD_S = 30, BEHIND_S = 15;

// `url` is the master playlist, which must exist. `onFailure(error)` is called once, before the player stops.
export function playLive(video, url, {startS = 0, onFailure = console.error} = {}) {
  const hls = new Hls({
    startPosition: startS,  // by default a live stream starts at its end
    maxBufferLength: AHEAD_S, maxMaxBufferLength: AHEAD_S, backBufferLength: BEHIND_S, frontBufferFlushThreshold: AHEAD_S + BEHIND_S,
    liveSyncOnStallIncrease: 0,  // a stall only means that the next chunk is not rendered yet
    enableWorker: false,  // segments are fMP4, so there is nothing to remultiplex
  });
  hls.on(Hls.Events.ERROR, (_, {fatal, details, error}) => {
    if (!fatal) return;
    onFailure(error ?? new Error(details));
    hls.destroy();
  });
  hls.loadSource(url);
  hls.attachMedia(video);
  return hls;
}
