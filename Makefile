# Every workflow of agentforge. `make help` prints the targets; each runs one visible command.
#
#   PROFILE=tiny   which profile of the recipe (tiny, rtx4090, 1xh200, 8xh200, auto); none: the recipe as it stands
#   ARGS="a.b=c"   overrides of the recipe, as on the command line
#   LAUNCH=8xh200_ddp   trainings of adamba's phases: a process for each GPU, by configs/accelerate/8xh200_ddp.yaml

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PROFILE ?=
ARGS    ?=
OPTIONS  = $(if $(PROFILE),--profile $(PROFILE)) $(ARGS)
FORGE    = $(BIN)/agentforge
LAUNCH  ?=
TRAIN    = $(if $(LAUNCH),$(BIN)/accelerate launch --config_file configs/accelerate/$(LAUNCH).yaml -m agentforge,$(FORGE)) train
# One exact version, installed first: a looser request would bring the registry's newest CUDA build.
TORCH   := $(shell grep '^torch==' constraints/cpu.txt)

.DEFAULT_GOAL := help
.PHONY: help setup gguf-setup demo demo-aj demo-affine test check lint format types clean \
        aj aj-plan aj-doctor aj-download aj-prepare aj-preview aj-train aj-evaluate aj-merge aj-gguf aj-chat aj-serve aj-push \
        affine affine-plan affine-collect affine-sft affine-rl affine-grpo affine-dpo affine-kto affine-evaluate \
        affine-compare affine-report \
        adamba adamba-plan adamba-base adamba-phase1 adamba-phase2 adamba-phase3 adamba-phase4 adamba-phase5 adamba-phase6 \
        adamba-evaluate adamba-report bench docs

help: ## print this list
	@grep -hE '^[a-z][a-zA-Z0-9_-]*:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## make .venv with everything the CPU default needs

$(VENV)/.ready: pyproject.toml constraints/cpu.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt --editable ".[dev]"
	@touch $@

gguf-setup: setup ## build llama-cpp-python once into the user's cache, and install it
	$(BIN)/python -m agentforge.export.llama_cpp

# -- aj: a LoRA agent with tools, from data sets to a chatting GGUF ------------------------------------------------

demo: demo-aj demo-affine ## both demos, one after the other (half an hour on 2 cores)

demo-aj: setup gguf-setup ## aj in small on this machine: train, merge, quantise, check and talk (11 minutes)
	$(FORGE) run aj --profile tiny $(ARGS)
	$(FORGE) compare aj --profile tiny $(ARGS)
	$(FORGE) chat aj --profile tiny --model q4km --tools sandbox --files data/aj/example --examples 3 $(ARGS)

demo-affine: setup ## affine in small: experts, SFT, PPO and GRPO in three environments, scores, a page (15 minutes)
	$(FORGE) run affine --profile tiny $(ARGS)
	$(FORGE) compare affine --profile tiny $(ARGS)

aj: setup ## all the stages of aj, skipping what is up to date
	$(FORGE) run aj $(OPTIONS)

aj-plan: setup ## parameters, memory, hours and dollars of aj before anything is spent
	$(FORGE) plan aj $(OPTIONS)

aj-doctor: setup ## what this machine has and lacks for aj
	$(FORGE) doctor aj $(OPTIONS)

aj-download: setup ## the data sets of aj into the Hub's cache
	$(FORGE) download aj $(OPTIONS)

aj-prepare: setup ## clean, deduplicate, decontaminate, mix, split and tokenise
	$(FORGE) prepare aj $(OPTIONS)

aj-preview: setup ## a few rows as the model will see them
	$(FORGE) preview aj $(OPTIONS)

aj-train: setup ## LoRA SFT; run it again after a stop and it goes on
	$(FORGE) train aj $(OPTIONS)

aj-evaluate: setup ## held-out tool calls, with intervals
	$(FORGE) evaluate aj $(OPTIONS)

aj-merge: setup ## the adapter into the base, checked against the unmerged model
	$(FORGE) merge aj $(OPTIONS)

aj-gguf: setup gguf-setup aj-merge ## convert, quantise, and check each GGUF against the original
	$(FORGE) gguf aj $(OPTIONS)

aj-chat: setup ## talk to the newest aj
	$(FORGE) chat aj $(OPTIONS)

aj-serve: setup ## OpenAI-compatible server with parsed tool calls
	$(FORGE) serve aj $(OPTIONS)

aj-push: setup ## what would go to the Hub (without --dry-run it goes: agentforge push aj)
	$(FORGE) push aj --dry-run $(OPTIONS)

# -- affine: episodes of experts, SFT, PPO and GRPO in environments, evaluation that can be believed -----------------

affine: setup ## all the stages of affine, skipping what is up to date
	$(FORGE) run affine $(OPTIONS)

affine-plan: setup ## parameters, memory, hours and dollars of affine's PPO
	$(FORGE) plan affine/ppo $(OPTIONS)

affine-collect: setup ## episodes of the environments' experts, as rows
	$(FORGE) collect affine/sft $(OPTIONS)

affine-sft: setup ## prepare the rows, LoRA SFT, and the adapter into the base
	$(FORGE) prepare affine/sft $(OPTIONS)
	$(FORGE) train affine/sft $(OPTIONS)
	$(FORGE) merge affine/sft $(OPTIONS)

affine-rl: setup ## PPO in the environments, from the merged SFT model
	$(FORGE) train affine/ppo $(OPTIONS)

affine-grpo: setup ## the same with GRPO
	$(FORGE) train affine/grpo $(OPTIONS)

affine-dpo: setup ## episodes of the merged SFT model, then DPO on its pairs with the experts'
	$(FORGE) collect affine/dpo $(OPTIONS)
	$(FORGE) train affine/dpo $(OPTIONS)

affine-kto: setup ## KTO on the same episodes, by success and failure
	$(FORGE) collect affine/dpo $(OPTIONS)
	$(FORGE) train affine/kto $(OPTIONS)

affine-evaluate: setup ## reserved tasks: base, SFT and PPO, with intervals and trivial strategies
	$(FORGE) evaluate affine/sft --model base $(OPTIONS)
	$(FORGE) evaluate affine/sft --model merged $(OPTIONS)
	$(FORGE) evaluate affine/ppo $(OPTIONS)

affine-compare: setup ## who dominates whom, and the frontier under every rule
	$(FORGE) compare affine $(OPTIONS)

affine-report: setup ## one HTML page: curves, scores, frontier, episodes, cost
	$(FORGE) report affine $(OPTIONS)

# -- adamba: Mamba grafted into a Llama, nested widths, early exits, growth, tools, RL -------------------------------

adamba: setup ## all phases of adamba, skipping what is up to date
	$(FORGE) run adamba $(OPTIONS)

adamba-plan: setup ## parameters, tokens, hours and dollars of each phase, and what was stated of them
	$(FORGE) plan adamba $(OPTIONS)

adamba-base: setup ## the tiny profile's own base, a Llama of a million parameters
	$(FORGE) prepare adamba/tiny_base $(OPTIONS)
	$(FORGE) train adamba/tiny_base $(OPTIONS)

adamba-phase1: setup $(if $(filter tiny,$(PROFILE)),adamba-base) ## graft Mamba-2 beside each attention, then train it alone
	$(FORGE) surgery adamba/phase1_graft $(OPTIONS)
	$(FORGE) prepare adamba/phase1 $(OPTIONS)
	$(TRAIN) adamba/phase1 $(OPTIONS)

adamba-phase2: setup ## sort by importance, then nested widths, exits, gates and a router
	$(FORGE) prepare adamba/phase2 $(OPTIONS)
	$(FORGE) surgery adamba/phase2_order $(OPTIONS)
	$(TRAIN) adamba/phase2 $(OPTIONS)

adamba-phase3: setup ## expand 2048 to 2560 channels, then train them
	$(FORGE) surgery adamba/phase3a $(OPTIONS)
	$(FORGE) prepare adamba/phase3b $(OPTIONS)
	$(TRAIN) adamba/phase3b $(OPTIONS)

adamba-phase4: setup ## expand 2560 to 4096 channels, then train them
	$(FORGE) surgery adamba/phase4a $(OPTIONS)
	$(FORGE) prepare adamba/phase4b $(OPTIONS)
	$(TRAIN) adamba/phase4b $(OPTIONS)

adamba-phase5: setup ## SFT on reasoning, tool calls and experts' episodes, at all widths
	$(FORGE) collect adamba/phase5 $(OPTIONS)
	$(FORGE) prepare adamba/phase5 $(OPTIONS)
	$(TRAIN) adamba/phase5 $(OPTIONS)

adamba-phase6: setup ## GRPO in environments, and DPO on played episodes
	$(TRAIN) adamba/phase6 $(OPTIONS)
	$(FORGE) collect adamba/phase6_dpo $(OPTIONS)
	$(TRAIN) adamba/phase6_dpo $(OPTIONS)

adamba-evaluate: setup ## losses by width and exit after phases 1 to 5, and success in environments after phase 6
	for phase in phase1 phase2 phase3b phase4b phase5 phase6; do \
	  $(FORGE) evaluate adamba/$$phase $(OPTIONS) || exit; done

adamba-report: setup ## one HTML page: losses, plots, proofs, curves, cost
	$(FORGE) report adamba $(OPTIONS)

# -- the project ---------------------------------------------------------------------------------------------------

test: setup ## the whole test suite
	$(BIN)/python -m pytest -q

check: lint types test ## ruff, mypy and the tests

lint: setup ## ruff: format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup ## let ruff rewrite what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: setup ## mypy on the package
	$(BIN)/mypy

bench: setup ## every measured table of docs/ once more
	$(BIN)/python -m benchmarks

clean: ## remove caches and build files; runs/ stays
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

docs: $(VENV)/.docs ## build the documentation and API reference into build/docs; a warning fails the build
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints/cpu.txt --editable ".[docs]"
	@touch $@
