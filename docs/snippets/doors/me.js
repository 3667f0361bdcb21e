// What user 42's page does with the token that your own server put into it.
export function listenToMine(url, token, onMessage) {
  // Browsers cannot set headers here, so the token travels as a sub-protocol.
  // The answer names the other one, `clarion.v1`.
  const socket = new WebSocket(`${url}/me`, ["clarion.v1", `bearer.${token}`]);
  socket.onmessage = ({ data }) => onMessage(data);
  return socket;
}
