// The `ollama` package for Node. Prints one JSON object of observations; the tests decide.
// node ollama_npm.mjs JSON, with the package in node_modules beside this file.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { Ollama } from 'ollama'

const given = JSON.parse(process.argv[2])
const client = new Ollama({ host: given.url })
const embedding = new Ollama({ host: given.embed_url })
const { model, messages, options, schema } = given
const seen = {}

async function all(stream) {
  const parts = []
  for await (const part of stream) parts.push(part)
  return parts
}

async function raising(name, action) {
  try {
    await action()
    seen[name] = null
  } catch (error) {
    seen[name] = { class: error.name, status: error.status_code ?? null, text: error.message }
  }
}

const file = createRequire(import.meta.url).resolve('ollama').replace(/(.*node_modules\/ollama)\/.*/, '$1/package.json')
seen.versions = { ollama: JSON.parse(readFileSync(file)).version, node: process.version }

seen.chat = await client.chat({ model, messages, options })
seen.stream = await all(await client.chat({ model, messages, options, stream: true }))
seen.schema = await client.chat({ model, messages, options, format: schema })
seen.logprobs = await client.chat({ model, messages, options, logprobs: true, top_logprobs: 3 })
seen.load = await client.chat({ model, messages: [] })

const tooled = { model: given.tool_model, messages: given.tool_messages, tools: given.tools, options }
seen.tools = await client.chat(tooled)
seen.tools_stream = await all(await client.chat({ ...tooled, stream: true }))

seen.generate = await client.generate({ model, prompt: given.question, options })
seen.generate_stream = await all(await client.generate({ model, prompt: given.question, options, stream: true }))
seen.raw = await client.generate({ model, prompt: given.raw, raw: true, options })

seen.list = await client.list()
seen.ps = await client.ps()
seen.show = await client.show({ model })
seen.version = await client.version()

seen.embed = await embedding.embed({ model: given.embed_model, input: given.texts })
seen.embeddings = await embedding.embeddings({ model: given.embed_model, prompt: given.texts[0] })

const nobody = { model: 'nobody', messages }
await raising('error_model', () => client.chat(nobody))
await raising('error_model_stream', async () => all(await client.chat({ ...nobody, stream: true })))
await raising('error_think', () => client.chat({ model, messages, think: true }))
await raising('error_show', () => client.show({ model: 'nobody' }))
await raising('error_pull', () => client.pull({ model: 'llama3' }))
await raising('error_delete', () => client.delete({ model }))

// A client that leaves in the middle: the package ends the request.
const leaving = await client.chat({ model, messages, options, stream: true })
for await (const part of leaving) {
  seen.before_abort = part
  leaving.abort()
  break
}
await raising('error_abort', async () => {
  const stream = await client.chat({ model, messages, options, stream: true })
  for await (const part of stream) stream.abort()
})

console.log(JSON.stringify(seen))
