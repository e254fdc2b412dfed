use super::*;

fn chat(body: &Value) -> Result<Map<String, Value>, ApiError> {
    read(Fields::of_body(body.to_string().as_bytes()).unwrap()).map(|(chat, _)| chat.rest())
}

#[test]
fn items_become_messages() {
    let body = json!({
        "instructions": "be brief",
        "input": [
            {"role": "developer", "content": "speak English"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "so"}]},
            {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
             "content": [{"type": "output_text", "text": "yes", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"x\": 1}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
            {"role": "assistant", "content": "first"},
            {"role": "assistant", "content": "second"},
            {"role": "user", "content": "c"},
        ],
    });
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        chat(&body).unwrap()["messages"],
        json!([
            {"role": "system", "content": "be brief"},
            {"role": "developer", "content": "speak English"},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "yes", "reasoning_content": "so",
             "tool_calls": [call("c1", "f", "{\"x\": 1}"), call("c2", "g", "{}")]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "assistant", "content": "first"},
            {"role": "assistant", "content": "second"},
            {"role": "user", "content": "c"},
        ])
    );
}

#[test]
fn other_fields_become_those_of_chats() {
    let schema = json!({"type": "object"});
    let tool = json!({"type": "function", "name": "f", "description": "d", "parameters": schema, "strict": true});
    let body = json!({
        "input": "hi", "max_output_tokens": 9, "reasoning": {"effort": "none", "summary": "auto"}, "tools": [tool],
        "tool_choice": {"type": "function", "name": "f"}, "store": false, "seed": 3, "include": ["reasoning.encrypted_content"],
        "text": {"format": {"type": "json_schema", "name": "x", "schema": schema, "strict": true}},
        "chat_template_kwargs": {"enable_thinking": true},
    });
    let function = json!({"name": "f", "description": "d", "parameters": schema, "strict": true});
    assert_eq!(
        Value::from(chat(&body).unwrap()),
        json!({
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "seed": 3,
            "tools": [{"type": "function", "function": function}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}},
            "chat_template_kwargs": {"thinking": false, "enable_thinking": true, "reasoning_effort": "none"},
        })
    );
}

#[test]
fn what_is_not_supported_is_named() {
    for (field, value, param) in [
        ("previous_response_id", json!("resp_1"), "previous_response_id"),
        ("conversation", json!({"id": "conv_1"}), "conversation"),
        ("store", json!(true), "store"),
        ("background", json!(true), "background"),
        ("prompt", json!({"id": "p"}), "prompt"),
        ("truncation", json!("auto"), "truncation"),
        ("messages", json!([]), "messages"),
        ("max_tokens", json!(3), "max_tokens"),
        ("max_output_tokens", json!(0), "max_output_tokens"),
        ("include", json!(["message.output_text.logprobs"]), "include[0]"),
        ("text", json!({"verbosity": "low"}), "text.verbosity"),
        ("text", json!({"format": {"type": "json_schema", "name": "x"}}), "text.format.schema"),
        ("reasoning", json!({"summary": "concise"}), "reasoning.summary"),
        ("reasoning", json!("high"), "reasoning"),
        ("chat_template_kwargs", json!([true]), "chat_template_kwargs"),
        ("tools", json!([{"type": "web_search"}]), "tools[0].type"),
        ("tools", json!([{"type": "function"}]), "tools[0].name"),
        ("input", json!(null), "input"),
        ("input", json!([]), "input"),
        ("input", json!(3), "input"),
        ("input", json!([3]), "input[0]"),
        ("input", json!([{"type": "item_reference", "id": "x"}]), "input[0].type"),
        ("input", json!([{"type": "mcp_call"}]), "input[0].type"),
        ("input", json!([{"role": "critic", "content": "x"}]), "input[0].role"),
        ("input", json!([{"role": "user", "content": [{"type": "input_image"}]}]), "input[0].content[0]"),
        ("input", json!([{"type": "function_call", "call_id": "a", "name": "f"}]), "input[0].arguments"),
    ] {
        let mut body = json!({"input": "hi"});
        body[field] = value;
        assert_eq!(chat(&body).unwrap_err().to_json()["error"]["param"], param, "{body}");
    }
}
