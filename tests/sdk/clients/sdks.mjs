// SDKs for node against a gateway; see README.md. Run it where they are installed: node sdks.mjs [URL]
import Anthropic from '@anthropic-ai/sdk';
import { createAnthropic } from '@ai-sdk/anthropic';
import { createGoogleGenerativeAI } from '@ai-sdk/google';
import { createOpenAI } from '@ai-sdk/openai';
import { GoogleGenAI } from '@google/genai';
import { embed, generateText, streamText } from 'ai';
import OpenAI from 'openai';

const gateway = process.argv[2] ?? 'http://127.0.0.1:8080';
const apiKey = 'fx-by-hand-0123456789';
const TEXT = 'Hello, wörld 🌍';
const messages = [{ role: 'user', content: 'Hello?' }];
let failed = 0;

async function check(name, ask) {
  try {
    const said = await ask();
    if (said !== TEXT && said !== true) throw new Error(`said ${JSON.stringify(said)}`);
    console.log('ok  ', name);
  } catch (error) {
    failed += 1;
    console.log('FAIL', name, error.status ?? '', String(error.message).slice(0, 300));
  }
}

async function joined(parts, text) {
  let said = '';
  for await (const part of parts) said += text(part) ?? '';
  return said;
}

for (const [openai, anthropic, gemini] of [['', '', ''], ['/openai', '/anthropic', '/gemini']]) {
  const where = openai ? 'mount' : 'unified';
  const client = new OpenAI({ apiKey, baseURL: `${gateway}${openai}/v1`, maxRetries: 0 });
  const model = 'gpt-5';
  const options = { stream: true, stream_options: { include_usage: true } };
  await check(`openai-node chat, ${where}`, async () =>
    (await client.chat.completions.create({ model, messages })).choices[0].message.content);
  await check(`openai-node chat streamed, ${where}`, async () =>
    joined(await client.chat.completions.create({ model, messages, ...options }), (c) => c.choices[0]?.delta.content));
  await check(`openai-node responses, ${where}`, async () =>
    (await client.responses.create({ model, input: 'x' })).output_text);
  await check(`openai-node responses streamed, ${where}`, async () =>
    joined(await client.responses.create({ model, input: 'x', stream: true }), (e) =>
      e.type === 'response.output_text.delta' ? e.delta : ''));
  await check(`openai-node embeddings, ${where}`, async () =>
    (await client.embeddings.create({ model: 'text-embedding-3-small', input: 'x' })).data[0].embedding.length === 3);
  await check(`openai-node 20 MB upload, ${where}`, async () => {
    const file = new File([Buffer.alloc(20 << 20, 97)], 'batch.jsonl');
    return (await client.files.create({ file, purpose: 'batch' })).bytes > 20 << 20;
  });
  await check(`openai-node, refused by us: no retry, ${where}`, async () => {
    const stranger = new OpenAI({ apiKey: 'nobody', baseURL: `${gateway}${openai}/v1` });
    const began = Date.now();
    return stranger.responses.create({ model, input: 'x' }).then(
      () => false,
      (error) => error.status === 401 && Date.now() - began < 400);
  });

  const claude = new Anthropic({ apiKey, baseURL: `${gateway}${anthropic}`, maxRetries: 0 });
  const question = { model: 'claude-x', max_tokens: 9, messages };
  await check(`anthropic-node, ${where}`, async () => (await claude.messages.create(question)).content[0].text);
  await check(`anthropic-node streamed, ${where}`, async () => claude.messages.stream(question).finalText());

  const google = new GoogleGenAI({ apiKey, httpOptions: { baseUrl: `${gateway}${gemini}` } });
  const prompt = { model: 'gemini-2.5-flash', contents: 'x' };
  await check(`google-genai-node, ${where}`, async () => (await google.models.generateContent(prompt)).text);
  await check(`google-genai-node streamed, ${where}`, async () =>
    joined(await google.models.generateContentStream(prompt), (part) => part.text));

  const vercel = createOpenAI({ apiKey, baseURL: `${gateway}${openai}/v1` });
  const models = {
    'openai responses': vercel(model),
    'openai chat': vercel.chat(model),
    anthropic: createAnthropic({ apiKey, baseURL: `${gateway}${anthropic}/v1` })('claude-x'),
    google: createGoogleGenerativeAI({ apiKey, baseURL: `${gateway}${gemini}/v1beta` })('gemini-2.5-flash'),
  };
  for (const [name, one] of Object.entries(models)) {
    const call = { model: one, prompt: 'x', maxRetries: 0, maxOutputTokens: 9 };
    await check(`vercel ${name}, ${where}`, async () => (await generateText(call)).text);
    await check(`vercel ${name} streamed, ${where}`, async () => joined(streamText(call).textStream, (text) => text));
  }
  await check(`vercel embeddings, ${where}`, async () =>
    (await embed({ model: vercel.embedding('text-embedding-3-small'), value: 'x' })).embedding.length === 3);
}
process.exit(failed ? 1 : 0);
