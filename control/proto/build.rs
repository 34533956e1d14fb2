//! Generates the message types and the service code from `proto/`. Needs `protoc`.

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    tonic_prost_build::configure().compile_protos(
        &[
            "proto/marchproxy/v1/document.proto",
            "proto/marchproxy/v1/node.proto",
            "proto/marchproxy/v1/control.proto",
        ],
        &["proto"],
    )
}
