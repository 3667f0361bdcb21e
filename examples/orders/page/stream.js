// Listens to channels by `EventSource` or `WebSocket`, and comes back by itself after a random pause.

const LONGEST = 10_000; // the longest pause between two attempts, in milliseconds

/** The address of a channel for a door; each segment is escaped, and patterns stay patterns. */
const path = (channel) => channel.split("/").map((part) => encodeURIComponent(part)).join("/");

/** One connection for all channels; each message names its own. */
function eventSource(url, channels, token, events) {
  const query = new URLSearchParams(channels.map((channel) => ["channel", channel]));
  if (token) query.set("token", token);
  const source = new EventSource(`${url}/events?${query}`);
  source.onopen = () => events.open();
  source.onmessage = (event) => events.message(JSON.parse(event.data).data);
  // Its own way of coming back has no jitter and knows one node only.
  source.onerror = () => events.lost();
  return () => source.close();
}

/** A connection for each channel. They count as one: open when all are, lost when one is. */
function webSocket(url, channels, token, events) {
  let closed = 0;
  const sockets = channels.map((channel) => {
    const protocols = token ? ["clarion.v1", `bearer.${token}`] : [];
    const socket = new WebSocket(`${url.replace(/^http/, "ws")}/${path(channel)}`, protocols);
    socket.onopen = () => sockets.every((one) => one.readyState === WebSocket.OPEN) && events.open();
    socket.onmessage = (event) => events.message(JSON.parse(event.data));
    // 3500 and above means: do not come back.
    socket.onclose = (event) => closed++ || (event.code >= 3500 && event.code < 5000 ? events.refused() : events.lost());
    return socket;
  });
  return () => {
    closed++;
    sockets.forEach((socket) => socket.close());
  };
}

/**
 * Listens until `close()` is called on what it returns. `onState` hears `connecting`, `open`, `waiting` and `refused`;
 * with `silence` a connection on which nothing comes for so many milliseconds counts as lost.
 */
export function listen({ urls, channels, transport, token, silence, onMessage, onState }) {
  let attempt = 0;
  let turn = Math.floor(Math.random() * urls.length);
  let stop = () => {};
  let timer;

  const guard = () => {
    clearTimeout(timer);
    if (silence) timer = setTimeout(lost, silence);
  };
  const end = (state) => {
    stop();
    clearTimeout(timer);
    onState(state);
  };
  function lost() {
    end("waiting");
    // The first attempt is nearly at once. Then the pauses grow, and all are random: a node's death leaves many who
    // come back, and they must not come together.
    const pause = Math.random() * Math.min(LONGEST, 500 * 2 ** attempt++);
    turn = (turn + 1) % urls.length;
    timer = setTimeout(connect, pause);
  }
  function connect() {
    onState("connecting");
    guard();
    stop = (transport === "ws" ? webSocket : eventSource)(urls[turn], channels, token, {
      open: () => (guard(), onState("open")),
      // Only what arrives proves that all is well; a node that is full opens a stream and ends it.
      message: (data) => ((attempt = 0), guard(), onMessage(data)),
      lost,
      refused: () => end("refused"),
    });
  }
  connect();
  return { close: () => (stop(), clearTimeout(timer)) };
}
