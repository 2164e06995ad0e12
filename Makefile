# All workflows of agentforge. `make help` lists the targets. Each target runs its commands visibly.
#
#   PROFILE=tiny        use a profile of the recipe (tiny, gtx1660, rtx4090, 1xh200, 8xh200, auto); default: none
#   ARGS="a.b=c"        override keys of the recipe, as on the command line

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PROFILE ?=
ARGS    ?=
OPTIONS  = $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)
FORGE    = $(BIN)/agentforge
# One exact version, installed first: a looser request would install the registry's newest CUDA build.
TORCH   := $(shell grep '^torch==' constraints/cpu.txt)

.DEFAULT_GOAL := help
.PHONY: help setup gguf-setup demo demo-aj demo-affine test test-families faults check lint format types clean \
        aj aj-plan aj-doctor aj-download aj-prepare aj-preview aj-train aj-evaluate aj-merge aj-gguf aj-chat aj-serve aj-push \
        affine affine-plan affine-collect affine-sft affine-rl affine-grpo affine-dpo affine-kto affine-evaluate \
        affine-compare affine-report \
        adamba adamba-plan adamba-base adamba-phase1 adamba-phase2 adamba-phase3 adamba-phase4 adamba-phase5 adamba-phase6 \
        adamba-evaluate adamba-report \
        cognate cognate-plan cognate-doctor cognate-download cognate-prepare cognate-train cognate-reasoning cognate-memory \
        cognate-speed cognate-control cognate-evaluate cognate-benchmarks cognate-ablate cognate-report \
        agiformer agiformer-plan agiformer-download agiformer-train agiformer-evaluate agiformer-inspect agiformer-generate \
        agiformer-push bench docs

help: ## list these targets
	@grep -hE '^[a-z][a-zA-Z0-9_-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-18s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## create .venv with everything that a CPU run needs

$(VENV)/.ready: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt --editable ".[dev]"
	@touch $@

gguf-setup: setup ## build llama-cpp-python in your cache (once) and install it
	$(BIN)/python -m agentforge.export.llama_cpp

# -- aj: a LoRA agent with tools, from data sets to a GGUF you can chat with ------------------------------------------------

demo: demo-aj demo-affine ## run both demos, one after the other (half an hour on 2 cores)

demo-aj: setup gguf-setup ## run aj in small: train, merge, quantise, check and chat (about 11 minutes)
	$(FORGE) run aj --profile tiny $(ARGS)
	$(FORGE) compare aj --profile tiny $(ARGS)
	$(FORGE) chat aj --profile tiny --model q4km --tools sandbox --files data/aj/example --examples 3 $(ARGS)

demo-affine: setup ## run affine in small: experts, SFT, PPO and GRPO in three environments, scores, a report (15 minutes)
	$(FORGE) run affine --profile tiny $(ARGS)
	$(FORGE) compare affine --profile tiny $(ARGS)

aj: setup ## run all stages of aj; skip those that are up to date
	$(FORGE) run aj $(OPTIONS)

aj-plan: setup ## show aj's parameters, memory, hours and dollars before you spend anything
	$(FORGE) plan aj $(OPTIONS)

aj-doctor: setup ## check what this machine has and lacks for aj
	$(FORGE) doctor aj $(OPTIONS)

aj-download: setup ## download aj's data sets into the Hub's cache
	$(FORGE) download aj $(OPTIONS)

aj-prepare: setup ## clean, deduplicate, decontaminate, mix, split and tokenise aj's data
	$(FORGE) prepare aj $(OPTIONS)

aj-preview: setup ## show a few rows as the model will see them
	$(FORGE) preview aj $(OPTIONS)

aj-train: setup ## run LoRA SFT; after a stop, run it again to resume
	$(FORGE) train aj $(OPTIONS)

aj-evaluate: setup ## score held-out tool calls, with intervals
	$(FORGE) evaluate aj $(OPTIONS)

aj-merge: setup ## merge the adapter into the base; check the result against the unmerged model
	$(FORGE) merge aj $(OPTIONS)

aj-gguf: setup gguf-setup aj-merge ## convert, quantise, and check each GGUF against the checkpoint
	$(FORGE) gguf aj $(OPTIONS)

aj-chat: setup ## chat with the newest aj
	$(FORGE) chat aj $(OPTIONS)

aj-serve: setup ## serve aj with an OpenAI-compatible API and parsed tool calls
	$(FORGE) serve aj $(OPTIONS)

aj-push: setup ## show what would be uploaded to the Hub (to upload it: agentforge push aj)
	$(FORGE) push aj --dry-run $(OPTIONS)

# -- affine: expert episodes, SFT, PPO and GRPO in environments, and evaluation with intervals ----------------------

affine: setup ## run all stages of affine; skip those that are up to date
	$(FORGE) run affine $(OPTIONS)

affine-plan: setup ## show the parameters, memory, hours and dollars of affine's PPO
	$(FORGE) plan affine/ppo $(OPTIONS)

affine-collect: setup ## play the environments' experts and save their episodes as rows
	$(FORGE) collect affine/sft $(OPTIONS)

affine-sft: setup ## prepare the rows, run LoRA SFT, and merge the adapter
	$(FORGE) prepare affine/sft $(OPTIONS)
	$(FORGE) train affine/sft $(OPTIONS)
	$(FORGE) merge affine/sft $(OPTIONS)

affine-rl: setup ## run PPO in the environments, starting from the merged SFT model
	$(FORGE) train affine/ppo $(OPTIONS)

affine-grpo: setup ## run GRPO instead of PPO
	$(FORGE) train affine/grpo $(OPTIONS)

affine-dpo: setup ## collect episodes of the merged SFT model, then run DPO on their pairs with the experts'
	$(FORGE) collect affine/dpo $(OPTIONS)
	$(FORGE) train affine/dpo $(OPTIONS)

affine-kto: setup ## run KTO on the same episodes, labelled by success and failure
	$(FORGE) collect affine/dpo $(OPTIONS)
	$(FORGE) train affine/kto $(OPTIONS)

affine-evaluate: setup ## score base, SFT and PPO on reserved tasks, with intervals and trivial strategies
	$(FORGE) evaluate affine/sft --model base $(OPTIONS)
	$(FORGE) evaluate affine/sft --model merged $(OPTIONS)
	$(FORGE) evaluate affine/ppo $(OPTIONS)

affine-compare: setup ## show which model dominates which, and the frontier under every rule
	$(FORGE) compare affine $(OPTIONS)

affine-report: setup ## write one HTML page: curves, scores, frontier, episodes, cost
	$(FORGE) report affine $(OPTIONS)

# -- adamba: Mamba grafted into a Llama, nested widths, early exits, growth, tools, RL -------------------------------

adamba: setup ## run all phases of adamba; skip those that are up to date
	$(FORGE) run adamba $(OPTIONS)

adamba-plan: setup ## show parameters, tokens, hours and dollars of each phase, and check the specification's figures
	$(FORGE) plan adamba $(OPTIONS)

adamba-base: setup ## pre-train the tiny profile's base, a Llama of a million parameters
	$(FORGE) prepare adamba/tiny_base $(OPTIONS)
	$(FORGE) train adamba/tiny_base $(OPTIONS)

adamba-phase1: setup $(if $(filter tiny,$(PROFILE)),adamba-base) ## graft Mamba-2 beside each attention, then train only the mixers
	$(FORGE) surgery adamba/phase1_graft $(OPTIONS)
	$(FORGE) prepare adamba/phase1 $(OPTIONS)
	$(FORGE) train adamba/phase1 $(OPTIONS)

adamba-phase2: setup ## sort by importance, then train nested widths, exits, gates and a router
	$(FORGE) prepare adamba/phase2 $(OPTIONS)
	$(FORGE) surgery adamba/phase2_order $(OPTIONS)
	$(FORGE) train adamba/phase2 $(OPTIONS)

adamba-phase3: setup ## expand from 2048 to 2560 channels, then train
	$(FORGE) surgery adamba/phase3a $(OPTIONS)
	$(FORGE) prepare adamba/phase3b $(OPTIONS)
	$(FORGE) train adamba/phase3b $(OPTIONS)

adamba-phase4: setup ## expand from 2560 to 4096 channels, then train
	$(FORGE) surgery adamba/phase4a $(OPTIONS)
	$(FORGE) prepare adamba/phase4b $(OPTIONS)
	$(FORGE) train adamba/phase4b $(OPTIONS)

adamba-phase5: setup ## run SFT on reasoning, tool calls and expert episodes, at all widths
	$(FORGE) collect adamba/phase5 $(OPTIONS)
	$(FORGE) prepare adamba/phase5 $(OPTIONS)
	$(FORGE) train adamba/phase5 $(OPTIONS)

adamba-phase6: setup ## run GRPO in environments, and DPO on played episodes
	$(FORGE) train adamba/phase6 $(OPTIONS)
	$(FORGE) collect adamba/phase6_dpo $(OPTIONS)
	$(FORGE) train adamba/phase6_dpo $(OPTIONS)

adamba-evaluate: setup ## measure losses by width and exit after phases 1 to 5, and success in environments after phase 6
	for phase in phase1 phase2 phase3b phase4b phase5 phase6; do \
	  $(FORGE) evaluate adamba/$$phase $(OPTIONS) || exit; done

adamba-report: setup ## write one HTML page: losses, plots, proofs, curves, cost
	$(FORGE) report adamba $(OPTIONS)

# -- cognate: a small recursive model with a memory, three specialisations of one trunk ------------------------------

cognate: setup ## run all stages of cognate; skip those that are up to date
	$(FORGE) run cognate $(OPTIONS)

cognate-plan: setup ## show cognate's parameters, tokens, hours and memory (PROFILE=gtx1660: on a card with 6 GB)
	$(FORGE) plan cognate $(OPTIONS)

cognate-doctor: setup ## check what this machine has and lacks for cognate
	$(FORGE) doctor cognate $(OPTIONS)

cognate-download: setup ## download cognate's data sets, and the benchmarks' rows that must not be trained on
	$(FORGE) download cognate/trunk $(OPTIONS)

cognate-prepare: setup ## clean, decontaminate, mix, split and tokenise cognate's data, and train its tokenizer
	$(FORGE) prepare cognate/trunk $(OPTIONS)

cognate-train: setup ## train the trunk in three stages by epoch; after a stop, run it again to resume
	$(FORGE) train cognate/trunk $(OPTIONS)

cognate-reasoning: setup ## branch the specialisation that thinks longest, and train it
	$(FORGE) surgery cognate/reasoning_branch $(OPTIONS)
	$(FORGE) train cognate/reasoning $(OPTIONS)

cognate-memory: setup ## branch the specialisation with twice the memory, and train it
	$(FORGE) surgery cognate/memory_branch $(OPTIONS)
	$(FORGE) train cognate/memory $(OPTIONS)

cognate-speed: setup ## branch the specialisation that answers soonest, and train it
	$(FORGE) surgery cognate/speed_branch $(OPTIONS)
	$(FORGE) train cognate/speed $(OPTIONS)

cognate-control: setup ## train the trunk on with three seeds, to compare the three specialisations with
	for number in 1 2 3; do $(FORGE) train cognate/control_$$number $(OPTIONS) || exit; done

cognate-evaluate: setup ## measure losses by exit threshold, and whether the three differ more than seeds do
	for recipe in trunk reasoning memory speed; do \
	  $(FORGE) evaluate cognate/$$recipe $(OPTIONS) || exit; done
	$(FORGE) evaluate cognate/diversity $(OPTIONS)

cognate-benchmarks: setup ## score cognate's models on public benchmarks (needs the Hub or data.hub_mirror)
	for name in Reasoning Memory Speed; do $(FORGE) evaluate cognate/benchmarks \
	  --model runs/cognate/Cognate-$(if $(filter tiny,$(PROFILE)),Tiny-)$$name-v1.0.0-model $(OPTIONS) || exit; done

cognate-ablate: setup ## measure what each part is worth, on synthetic tasks (45 minutes on 2 cores; ARGS=--quick: minutes)
	$(BIN)/python -m agentforge.systems.cognate.ablation $(ARGS)

cognate-report: setup ## write one HTML page: losses, thresholds, halting steps, diversity, curves, cost
	$(FORGE) report cognate $(OPTIONS)

# -- agiformer: a byte-level model that thinks in patches --------------------------------------------------------------

agiformer: setup ## run all stages of agiformer: the model, two controls without thinking steps, scores, a report
	$(FORGE) run agiformer $(OPTIONS)

agiformer-plan: setup ## show agiformer's parameters, bytes, minutes and dollars
	$(FORGE) plan agiformer $(OPTIONS)

agiformer-download: setup ## fetch enwik8, and compare its size and md5
	$(FORGE) download agiformer $(OPTIONS)

agiformer-train: setup ## cut the text into rows and train on it; after a stop, run it again to resume
	$(FORGE) prepare agiformer/bytes $(OPTIONS)
	$(FORGE) train agiformer/bytes $(OPTIONS)

agiformer-evaluate: setup ## bits per byte of the test text, beside gzip, bzip2, xz, zstd and PPMd
	$(FORGE) evaluate agiformer/bits $(OPTIONS)

agiformer-inspect: setup ## what the thinking steps are worth, against two controls trained without them
	$(FORGE) train agiformer/same_parameters $(OPTIONS)
	$(FORGE) train agiformer/same_flops $(OPTIONS)
	$(FORGE) evaluate agiformer/bytes $(OPTIONS)

agiformer-generate: setup ## let the trained model continue a text
	$(FORGE) generate agiformer/bytes --prompt "The " $(OPTIONS)

agiformer-push: setup ## show what would be uploaded to the Hub (to upload it: agentforge push agiformer/bytes)
	$(FORGE) push agiformer/bytes --dry-run $(OPTIONS)

# -- the project ---------------------------------------------------------------------------------------------------

test: setup ## run the whole test suite
	$(BIN)/python -m pytest -q -n auto --dist loadfile

test-families: setup ## from a base to a chat for 14 model families, each a two-layer random model (minutes)
	FAMILIES=all $(BIN)/python -m pytest -q -n auto tests/data/dialects tests/end_to_end/test_families.py

faults: setup ## break every stage on purpose: kill -9, full disk, flipped bits, a hanging process ... (a quarter of an hour)
	$(BIN)/python -m benchmarks.faults $(ARGS)

check: lint types test ## run ruff, mypy and the tests

lint: setup ## check formatting and lint with ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## format with ruff and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## check types with mypy
	$(BIN)/mypy

bench: setup ## measure the tables of docs/performance.md again
	$(BIN)/python -m benchmarks

clean: ## remove caches and build files; keep runs/
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

docs: $(VENV)/.docs ## build the documentation and API reference into build/docs; a warning fails the build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt --editable ".[docs]"
	@touch $@
