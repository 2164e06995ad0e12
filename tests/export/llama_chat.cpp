// What llama-server does with a chat template around generation: render the prompt, and parse what the model wrote.
// Requests and answers are lines of JSON. Compiled by tests/export/llama_chat.py against llama.cpp's own sources.
#include "chat.h"
#include "json.h"

#include <iostream>
#include <string>

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        common_json answer = common_json::object();
        try {
            const auto request = common_json::parse(line);
            const auto text_of = [&](const char * key) { return request.at(key).get<std::string>(); };
            auto templates = common_chat_templates_init(nullptr, text_of("template"), text_of("bos"), text_of("eos"));

            common_chat_templates_inputs inputs;
            inputs.messages            = common_chat_msgs_parse_oaicompat(request.at("messages"));
            inputs.tools               = common_chat_tools_parse_oaicompat(request.at("tools"));
            inputs.parallel_tool_calls = true;
            inputs.reasoning_format    = COMMON_REASONING_FORMAT_AUTO;
            const auto params = common_chat_templates_apply(templates.get(), inputs);
            answer["prompt"]  = params.prompt;
            answer["format"]  = std::string(common_chat_format_name(params.format));
            auto preserved    = common_json::array();
            for (const auto & token : params.preserved_tokens) {
                preserved.push_back(token);
            }
            answer["preserved"] = preserved;

            common_chat_parser_params parser(params);
            parser.reasoning_format = COMMON_REASONING_FORMAT_AUTO;
            if (!params.parser.empty()) {
                parser.parser.load(params.parser);
            }
            answer["message"] = common_chat_parse(text_of("text"), false, parser).to_json_oaicompat();
        } catch (const std::exception & error) {
            answer["error"] = std::string(error.what());
        }
        std::cout << answer.dump() << std::endl;
    }
}
