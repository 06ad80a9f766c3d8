// Asks a gateway with OpenAI's own library: POQ_API=URL node client.mjs. Two tasks are ordered.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

// The library lies where POQ_NODE_MODULES says: an import would look for it beside this file.
const OpenAI = createRequire(process.env.POQ_NODE_MODULES + '/')('openai');

const passage = `The lighthouse on Gull Rock was built in 1871 by the engineer Marta Lindqvist. It is 34 metres high and stands on granite.`;
const about = (question) => ({ model: 'poq-best', messages: [{ role: 'user', content: `${question}\n\n${passage}` }] });
const client = new OpenAI({ baseURL: process.env.POQ_API, apiKey: process.env.POQ_API_KEY ?? 'none' });

const models = [];
for await (const m of client.models.list()) models.push(m.id);
assert(models.includes('poq-best'));

const got = await client.chat.completions.create({ ...about('Who built the lighthouse?'), n: 2, poq: { fee: 1500000 } });
assert.match(got.choices[0].message.content, /Marta Lindqvist/);
assert.equal(got.choices.length, 2);
assert.equal(got.poq.outcome, 'PAID');
assert.equal(got.poq.fee, 1500000);

const stream = client.chat.completions.stream(about('When was the lighthouse built?'));
assert.match(await stream.finalContent(), /1871/);

await assert.rejects(client.chat.completions.create({ ...about('Who?'), model: 'gpt-9' }), (e) =>
  e instanceof OpenAI.NotFoundError && e.code === 'model_not_found' && e.param === 'model');
await assert.rejects(client.chat.completions.create({ ...about('Who?'), n: 99 }), (e) =>
  e instanceof OpenAI.BadRequestError && e.param === 'n');
