use super::*;

fn chat(body: &Value) -> Result<Map<String, Value>, ApiError> {
    read(Fields::of_body(body.to_string().as_bytes()).unwrap()).map(|(chat, _)| chat.rest())
}

#[test]
fn blocks_become_messages() {
    let body = json!({
        "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "so", "signature": "x"},
                {"type": "text", "text": "yes"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "t2", "name": "g", "input": {"INVALID_JSON": "{x"}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "one"},
                {"type": "text", "text": "and "},
                {"type": "tool_result", "tool_use_id": "t2", "content": [{"type": "text", "text": "two"}], "is_error": true},
                {"type": "text", "text": "now?"},
            ]},
        ],
    });
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    assert_eq!(
        chat(&body).unwrap()["messages"],
        json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "yes", "reasoning_content": "so",
             "tool_calls": [call("t1", "f", "{\"x\":1}"), call("t2", "g", "{x")]},
            {"role": "tool", "tool_call_id": "t1", "content": "one"},
            {"role": "tool", "tool_call_id": "t2", "content": "two"},
            {"role": "user", "content": "and now?"},
        ])
    );
}

#[test]
fn other_fields_become_those_of_chats() {
    let schema = json!({"type": "object"});
    let body = json!({
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stop_sequences": ["x"], "top_k": 4,
        "tools": [{"name": "f", "description": "d", "input_schema": schema, "cache_control": {"type": "ephemeral"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true}, "metadata": {"user_id": "u"},
        "thinking": {"type": "enabled", "budget_tokens": 1024}, "cache_control": {"type": "ephemeral"},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": schema}},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    });
    assert_eq!(
        Value::from(chat(&body).unwrap()),
        json!({
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9, "stop": ["x"], "top_k": 4,
            "tools": [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
            "tool_choice": "required", "parallel_tool_calls": false, "metadata": {"user_id": "u"},
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
            "chat_template_kwargs": {"thinking": true, "enable_thinking": true, "reasoning_effort": "low"},
        })
    );
    let named = json!({"messages": body["messages"], "tool_choice": {"type": "tool", "name": "f"}});
    assert_eq!(chat(&named).unwrap()["tool_choice"], json!({"type": "function", "function": {"name": "f"}}));
}

#[test]
fn what_is_not_supported_is_named() {
    let message = |role: &str, block: Value| json!([{"role": role, "content": [block]}]);
    for (field, value, param) in [
        ("stop", json!(["x"]), "stop"),
        ("response_format", json!({"type": "text"}), "response_format"),
        ("mcp_servers", json!([{"url": "x"}]), "mcp_servers"),
        ("max_tokens", json!(0), "max_tokens"),
        ("context_management", json!({"edits": [{"type": "compact_20260112"}]}), "context_management.edits[0]"),
        ("thinking", json!({"type": "between_tools"}), "thinking.type"),
        ("thinking", json!({"type": "enabled", "display": "omitted"}), "thinking.display"),
        ("tool_choice", json!({"type": "all"}), "tool_choice.type"),
        ("tools", json!([{"type": "bash_20250124", "name": "bash"}]), "tools[0].type"),
        ("tools", json!([{"name": "f"}]), "tools[0].input_schema"),
        ("output_config", json!({"format": {"type": "json_schema"}}), "output_config.format.schema"),
        ("system", json!(3), "system"),
        ("messages", json!([]), "messages"),
        ("messages", json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), "messages"),
        ("messages", json!([{"role": "me", "content": "a"}]), "messages[0].role"),
        ("messages", message("user", json!({"type": "image", "source": {}})), "messages[0].content[0]"),
        ("messages", message("user", json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
        ("messages", message("assistant", json!({"type": "redacted_thinking"})), "messages[0].content[0]"),
        ("messages", message("assistant", json!({"type": "tool_use", "id": "a"})), "messages[0].content[0].name"),
    ] {
        let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
        body[field] = value;
        assert_eq!(chat(&body).unwrap_err().to_json()["error"]["param"], param, "{body}");
    }
}
