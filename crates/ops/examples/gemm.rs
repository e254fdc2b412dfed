//! `cargo run --release -p hadal-ops --example gemm [threads] [filter]`: products of the `small` recipe's step.

use hadal_ops::gemm::bench::{self, Orientation, Spec};
use hadal_ops::{Acc, Cx, DType};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().and_then(|a| a.parse().ok()).unwrap_or(0);
    let filter = args.get(1).map_or("", String::as_str);
    let cx = Cx::cpu(threads, DType::Bf16);
    let cube = Spec {
        name: "cube".into(),
        m: 512,
        n: 512,
        k: 512,
        groups: 1,
        orientation: Orientation::Forward,
        acc: Acc::Write,
        count: 1,
    };
    print!("{}", bench::table(&bench::run(&cx, &[cube], 1.0)));
    // Hidden 512, 8 layers of which 1 dense, 8 heads of 64 + 32 and 64, ranks 192 and 128, 32 experts of 256, 4 a token.
    let layers = [
        ("q_a", 192, 512, 8, 1),
        ("q_b", 768, 192, 8, 1),
        ("kv_a", 160, 512, 8, 1),
        ("kv_b", 1024, 128, 8, 1),
        ("o", 512, 512, 8, 1),
        ("dense gate+up", 2816, 512, 1, 1),
        ("dense down", 512, 1408, 1, 1),
        ("shared gate+up", 512, 512, 7, 1),
        ("shared down", 512, 256, 7, 1),
        ("experts gate+up", 512, 512, 7, 32),
        ("experts down", 512, 256, 7, 32),
        ("head", 16384, 512, 1, 1),
    ];
    let products = bench::step_products(&layers, 2048, 4, 512);
    let chosen: Vec<Spec> = products.into_iter().filter(|s| s.name.contains(filter)).collect();
    print!("{}", bench::table(&bench::run(&cx, &chosen, 0.25)));
}
