// npm install jsonwebtoken does this as well; without a library it is:
import { createHmac } from "node:crypto";

/** What your server gives to a page whose user has signed in. */
export function tokenFor(user) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: String(user), exp: Math.floor(Date.now() / 1000) + 3600 };
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part(claims)}`;
  const signature = createHmac("sha256", process.env.CLARION_JWT_SECRET).update(signed);
  return `${signed}.${signature.digest("base64url")}`;
}

console.log(tokenFor(42));
