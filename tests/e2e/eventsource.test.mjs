// Node's `eventsource` package, as a backend or a test of somebody's app would use it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EventSource } from "eventsource";
import { freePort, startBroker, startRedis, within } from "./harness.mjs";

/** Opens a stream and keeps what comes. */
async function follow(t, url, options) {
  const source = new EventSource(url, options);
  t.after(() => source.close());
  const messages = [];
  const waiting = [];
  source.onmessage = (event) => {
    messages.push(event.data);
    waiting.splice(0).forEach((look) => look());
  };
  await within("the stream opens", new Promise((resolve, reject) => {
    source.onopen = resolve;
    source.onerror = (error) => reject(new Error(`${error.code}: ${error.message}`));
  }));
  const until = (count) => within(`${count} messages`, new Promise((resolve) => {
    const look = () => (messages.length >= count ? resolve(messages) : waiting.push(look));
    look();
  }));
  return { source, messages, until };
}

const post = (url, body, type = "text/plain") => fetch(url, { method: "POST", body, headers: { "content-type": type } });

test("lines, emptiness and order survive an event stream", async (t) => {
  const redis = await startRedis(t);
  const node = await startBroker(t, { args: ["--bus", redis.url] });
  const { until } = await follow(t, `${node.url}/news`);
  const payloads = ["plain", "two\nlines", "", "trailing\n", " leading", "größe 🦀", '{"a":\n1}', ": no comment"];
  for (const payload of payloads) assert.equal((await post(`${node.url}/news`, payload)).status, 200);
  assert.deepEqual(await until(payloads.length), payloads);
});

test("many channels on one stream, each message once though they overlap", async (t) => {
  const redis = await startRedis(t);
  const node = await startBroker(t, { args: ["--bus", redis.url] });
  const { until } = await follow(t, `${node.url}/events?channel=a&channel=a/*&channel=a/**&channel=b`);
  await redis.cli("PUBLISH", "clarion:a", "text");
  await redis.cli("PUBLISH", "clarion:a/b", '{"json":true}');
  await redis.cli("PUBLISH", "clarion:other", "not for us");
  await redis.cli("PUBLISH", "clarion:b", "last");
  const events = (await until(3)).map((data) => JSON.parse(data));
  assert.deepEqual(events, [
    { channel: "a", text: "text" },
    { channel: "a/b", data: { json: true } },
    { channel: "b", text: "last" },
  ]);
});

test("a refused stream says its status", async (t) => {
  const node = await startBroker(t);
  await assert.rejects(follow(t, `${node.url}/users/42`), /^Error: 401|^Error: 403/);
  await assert.rejects(follow(t, `${node.url}/api/x`), /^Error: 404/);
});

test("a stream comes back after the node's restart", async (t) => {
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await startBroker(t, { listen });
  const { source, until } = await follow(t, `${first.url}/news`);
  await first.process.kill();
  const again = new Promise((resolve) => (source.onopen = resolve));
  const second = await startBroker(t, { listen });
  await within("the stream opens again", again);
  assert.equal((await post(`${second.url}/news`, "back")).status, 200);
  assert.deepEqual(await until(1), ["back"]);
});

test("an EventSource goes on at another node where it was", async (t) => {
  const redis = await startRedis(t);
  const toml = "[[namespaces]]\nprefix = 'orders'\nsubscribe = 'anyone'\npublish = 'anyone'\nlog = {}\n";
  const port = await freePort();
  const args = ["--bus", redis.url];
  const staying = await startBroker(t, { args, toml });
  const dying = await startBroker(t, { args, toml, listen: `127.0.0.1:${port}` });
  const { until } = await follow(t, `http://127.0.0.1:${port}/orders/7`);
  for (let number = 0; number < 5; number += 1) {
    assert.equal((await post(`${staying.url}/orders/7`, String(number))).status, 200);
  }
  await until(5);
  dying.process.kill();
  await dying.process.ended;
  for (let number = 5; number < 10; number += 1) {
    assert.equal((await post(`${staying.url}/orders/7`, String(number))).status, 200);
  }
  await startBroker(t, { args, toml, listen: `127.0.0.1:${port}` });
  assert.deepEqual(await until(10), [...Array(10).keys()].map(String));
});
