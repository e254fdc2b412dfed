//! The recipes that are built into the program, so that their names work everywhere.

/// Name and text of every built-in recipe.
pub const RECIPES: [(&str, &str); 5] = [
    ("quickstart", include_str!("../../../../recipes/quickstart.toml")),
    ("small", include_str!("../../../../recipes/small.toml")),
    ("needle", include_str!("../../../../recipes/needle.toml")),
    ("v2-lite-shape", include_str!("../../../../recipes/v2-lite-shape.toml")),
    ("deepseek-v3", include_str!("../../../../recipes/deepseek-v3.toml")),
];

/// The text of a built-in recipe.
pub fn recipe(name: &str) -> Option<&'static str> {
    RECIPES.iter().find(|r| r.0 == name).map(|r| r.1)
}
