"""What `helm test` runs: a chat with the base model, and one with an adapter that is sent along."""

import os

from openai import OpenAI

client = OpenAI(base_url=f"{os.environ['TINYLORA_URL']}/v1", api_key=os.environ["TINYLORA_ADMIN_KEY"], timeout=300)
model = client.models.list().data[0].id
for adapter, extra in (("none", {}), ("sent along", {"adapter": {"vector": [0.2] * 13}})):
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, extra_body=extra
    )
    print(f"{model}, adapter {adapter}: {answer.choices[0].message.content!r}")
