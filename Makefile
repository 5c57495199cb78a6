# Two commands do everything: `make demo` shows the main workflow, `make test` runs everything that must be
# green.
.DEFAULT_GOAL := help
.PHONY: help demo test image release release-check chart page-check docs cluster cluster-down e2e conformance conformance-sums soak soak-kubernetes soak-sums bench bench-scale check fmt links clippy unit deny advisories fuzz clean-cache

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: ## Create, stage, publish, delete: the life of a volume in a temporary virtual machine
	@e2e/needs.sh demo
	@echo "Building the demo (the first time, about a minute) …"
	@cargo run --quiet --locked --package quarry-demo

test: ## Everything that must be green: check, licences, real LVM in virtual machines, csi-sanity
	@e2e/needs.sh test
	@e2e/test.sh

image: ## The OCI image and its bill of materials, into target/image (docs/image.md)
	@e2e/needs.sh image
	@cargo run --quiet --locked --package quarry-image -- build
	@cargo run --quiet --locked --package quarry-image -- check

release: ## Everything that a release consists of, into target/dist (docs/releasing.md)
	@e2e/needs.sh release
	@deploy/release.sh $${DIRTY:+--dirty}

release-check: release ## Check the release: everything in it works, and a second build gives the same bytes
	@deploy/release-check.sh

chart: ## Lint and test the Helm chart
	@e2e/needs.sh test
	@deploy/check.sh

page-check: ## The page of a sample fleet of 5,000 nodes in a headless Chromium (docs/page.md)
	@e2e/needs.sh page
	@tools/page/check.sh

docs: ## The documentation as a site, into target/site, with all its links checked
	@e2e/needs.sh docs
	@tools/site/build.sh

cluster: ## Start a real Kubernetes on virtual nodes with Quarry installed from its chart; stop it with cluster-down
	@e2e/needs.sh test
	@echo "Building the program that starts the cluster (the first time, two or three minutes) …"
	@cargo run --quiet --locked --package quarry-cluster -- up

cluster-down: ## Stop the cluster of `make cluster`
	@cargo run --quiet --locked --package quarry-cluster -- down

# SCENARIOS='stateful-set expand' selects by parts of their names.
e2e: ## Scenarios on a real Kubernetes with virtual nodes; KUBERNETES=1.33 or 1.37 selects another minor version
	@e2e/needs.sh test
	@cargo run --quiet --locked --package quarry-cluster -- test $${KUBERNETES:+--kubernetes "$$KUBERNETES"} $$SCENARIOS

# The values given to make are in the environment of its commands, so a quote in them does not end a word.
# BATCH=1/6 runs the first of six parts. FOCUS=… runs the specs whose text contains it.
conformance: ## Kubernetes' own storage suite against Quarry (hours); BATCH=1/6 runs a part, FOCUS=… some specs
	@e2e/needs.sh test
	@cargo run --quiet --locked --package quarry-cluster -- conformance --batch "$${BATCH:-1/1}" -- $${FOCUS:+"$$FOCUS"}

conformance-sums: ## Add up the results of the batches of `make conformance`
	@cargo run --quiet --locked --package quarry-cluster -- conformance --sums

# SLICE=3/12 runs the third of twelve parts, each under an hour on two cores in one guest. GUEST=bookworm or
# trixie: only in that guest.
soak: ## The full sweeps: every kill point, many power cuts (hours); SLICE=3/12 runs a part
	@e2e/needs.sh test
	@cargo run --quiet --locked --package quarry-e2e -- --soak --slice "$${SLICE:-1/1}" $${GUEST:+--guest "$$GUEST"}
	@[ -n "$$SLICE$$GUEST" ] || $(MAKE) --no-print-directory soak-kubernetes

soak-kubernetes: ## The telling scenarios on the oldest and the newest minor version of Kubernetes (docs/install.md)
	@e2e/needs.sh test
	@for minor in 1.33 1.37; do \
		echo "Kubernetes $$minor"; \
		cargo run --quiet --locked --package quarry-cluster -- test --kubernetes $$minor \
			stateful-set expand capacity restarts || exit 1; \
	done

soak-sums: ## Add up the results of the slices of `make soak`
	@cargo run --quiet --locked --package quarry-e2e -- --sums

# QUICK=1 only shows that everything works.
bench: ## Every call of a node beside the bare commands, in a virtual node (long); writes bench/RESULTS.md
	@e2e/needs.sh bench
	@cargo run --quiet --locked --package quarry-bench-node -- $${QUICK:+--quick --into target/bench}

bench-scale: ## Memory and times with 500, 2,000 and 5,000 nodes behind one controller (docs/scale.md)
	@cargo run --quiet --locked --release --package quarry-bench-scale

check: fmt links clippy unit ## The fast loop: format, links in the documentation, lints, unit tests

fmt: ## Formatting
	@e2e/needs.sh check
	cargo fmt --all --check

links: ## Links in the documentation
	@e2e/needs.sh check
	@python3 tools/site/tests.py
	@python3 tools/site/links.py sources

# The fuzz targets are a workspace of their own. To check them needs no fuzzing library, only the path of some file.
clippy: ## Lints; warnings are errors; the fuzz targets compile
	cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
	CUSTOM_LIBFUZZER_PATH="$(CURDIR)/fuzz/Cargo.toml" cargo check --quiet --locked --manifest-path fuzz/Cargo.toml \
		--target-dir "$${CARGO_TARGET_DIR:-target}/fuzz"

unit: ## Tests that need no root and no virtual machine
	cargo test --quiet --locked --workspace

deny: ## Licences, duplicate crates, sources of crates
	@e2e/deny.sh check bans licenses sources

advisories: ## Known vulnerabilities in dependencies (needs the network)
	@e2e/deny.sh check advisories

fuzz: ## Fuzz the parsers of mountinfo, of LVM's report, of the record and of the claim, two minutes each
	@fuzz/run.sh

clean-cache: ## Remove the cached images and tools
	@cargo run --quiet --locked --package quarry-vm --bin quarry-vm -- cache --clean
